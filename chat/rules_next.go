//go:build nextrules

package chat

// RulesVersion of a build for the upgrade drill: one higher than the release's, and
// the same rules. It stands for the next release that changes them.
const RulesVersion uint32 = 2
