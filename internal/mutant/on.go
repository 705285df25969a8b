//go:build mutants

package mutant

import "os"

var active = Name(os.Getenv("BONGSU_MUTANT"))

// On tells whether a defect is planted.
func On(n Name) bool { return n == active }
