//go:build !nextrules

package chat

// RulesVersion is the highest version of the rules that this release knows.
const RulesVersion uint32 = 1
