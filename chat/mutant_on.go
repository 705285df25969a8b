//go:build mutant_clientid

package chat

const mutantNoClientID = true
