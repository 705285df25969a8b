package node_test

import (
	"net/http"
	"regexp"
	"testing"

	"github.com/bongsu-im/bongsu/node"
)

// What alerts of disks, groups and certificates stand on is shown.
func TestNodeShowsItsCensus(t *testing.T) {
	n := start(t, node.Config{Data: t.TempDir(), Shards: 2})
	code, body := get(t, n.URL()+"/metrics")
	if code != http.StatusOK {
		t.Fatal(code)
	}
	for _, line := range []string{
		`bongsu_node_clock_seconds 1\.\d+e\+09`,
		`bongsu_node_mendings_total\{kind="anew"\} 0`,
		`bongsu_node_mendings_total\{kind="reopened"\} 0`,
		`bongsu_journal_fenced 0`, `bongsu_view_fenced 0`,
		`bongsu_journal_store_bytes [1-9]`, `bongsu_view_store_bytes [1-9]`,
		`bongsu_journal_disk_free_bytes [1-9]`, `bongsu_journal_disk_reserve_bytes 2\.68435456e\+08`,
		`bongsu_journal_fsync_duration_seconds_count [1-9]`,
		`bongsu_raft_term\{shard="1"\} [1-9]`, `bongsu_raft_last_index\{shard="0"\} [1-9]`,
		`bongsu_raft_dropped_messages_total\{shard="1"\} 0`,
		`bongsu_shard_owner\{shard="1"\} 1`, `bongsu_gateway_ready 1`,
	} {
		if !regexp.MustCompile(`(?m)^` + line).MatchString(body) {
			t.Errorf("no line fits %s", line)
		}
	}
	if regexp.MustCompile(`certificate_expiry`).MatchString(body) {
		t.Error("a node without certificates says when they end")
	}
}
