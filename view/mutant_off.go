//go:build !mutant_position

package view

// mutantPositionApart is a planted defect, on only in a build with the tag mutant_position:
// the position is written in a batch of its own. The power drill must notice.
const mutantPositionApart = false
