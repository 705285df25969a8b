// Package house holds the rules of this repository as tests: who may import
// whom (DESIGN §9), that every package says what it is for, that nothing is
// replaced in go.mod. It has no code of its own.
package house
