//go:build mutant_position

package view

const mutantPositionApart = true
