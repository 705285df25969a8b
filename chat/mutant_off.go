//go:build !mutant_clientid

package chat

// mutantNoClientID is a planted defect, on only in a build with the tag mutant_clientid:
// the idempotency key of a message is not written. The drills must notice.
const mutantNoClientID = false
