package drill

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/bongsu-im/bongsu/proof/oracle"
)

// Result is what a drill found; its JSON names are part of the public contract.
type Result struct {
	Name         string   `json:"name"`
	Seed         uint64   `json:"seed"`
	Seconds      float64  `json:"seconds"`
	Passed       bool     `json:"passed"`
	Faults       int      `json:"faults"`
	Acknowledged int      `json:"acknowledged"`
	Lost         int      `json:"lost"`
	Duplicated   int      `json:"duplicated"`
	Moved        int      `json:"moved"`
	Holes        int      `json:"holes"`
	Details      []string `json:"details"`
	// Figures are further measurements by name, with the unit in the name.
	Figures map[string]float64 `json:"figures,omitempty"`
}

func (r *Result) wrong() int { return r.Lost + r.Duplicated + r.Moved + r.Holes }

// judged adds a verdict; acknowledged is counted by the drill, because a
// message is judged again after every fault.
func (r *Result) judged(v oracle.Verdict) {
	r.Lost += v.Lost
	r.Duplicated += v.Duplicated
	r.Moved += v.Moved
	r.Holes += v.Holes
	r.explain(v.Details...)
}

func (r *Result) explain(details ...string) {
	room := oracle.MaxDetails - len(r.Details)
	r.Details = append(r.Details, details[:min(len(details), max(room, 0))]...)
}

func (r *Result) add(o Result) {
	r.Faults += o.Faults
	r.Acknowledged += o.Acknowledged
	r.Lost += o.Lost
	r.Duplicated += o.Duplicated
	r.Moved += o.Moved
	r.Holes += o.Holes
	r.explain(o.Details...)
}

// Print writes the result for people.
func (r *Result) Print(w io.Writer) error {
	var b strings.Builder
	word := "PASSED"
	if !r.Passed {
		word = "FAILED"
	}
	fmt.Fprintf(&b, "\n%s  drill %s, seed %d, %.1f s\n\n", word, r.Name, r.Seed, r.Seconds)
	for _, row := range []struct {
		name string
		n    int
	}{
		{"faults", r.Faults}, {"acknowledged", r.Acknowledged}, {"lost", r.Lost},
		{"duplicated", r.Duplicated}, {"moved", r.Moved}, {"holes", r.Holes},
	} {
		fmt.Fprintf(&b, "  %-14s %9d\n", row.name, row.n)
	}
	for _, name := range sortedKeys(r.Figures) {
		fmt.Fprintf(&b, "  %-24s %9.1f\n", name, r.Figures[name])
	}
	for _, d := range r.Details {
		fmt.Fprintf(&b, "  · %s\n", d)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// JSON writes the result as one line for machines.
func (r *Result) JSON(w io.Writer) error {
	if r.Details == nil {
		r.Details = []string{}
	}
	return json.NewEncoder(w).Encode(r)
}

// newTicker returns a function that shows progress on one line, at most five
// times a second.
func newTicker(w io.Writer) func(format string, args ...any) {
	if w == nil {
		return func(string, ...any) {}
	}
	var last time.Time
	return func(format string, args ...any) {
		if time.Since(last) < 200*time.Millisecond {
			return
		}
		last = time.Now()
		fmt.Fprintf(w, "\r%-78s", fmt.Sprintf(format, args...))
	}
}
