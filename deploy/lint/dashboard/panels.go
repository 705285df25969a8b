package main

import "strings"

// The selectors that every query of a part has. $job, $instance and $shard are
// the dashboard's variables.
const (
	ofJob   = `job="$job"`
	ofNode  = `job="$job", instance=~"$instance"`
	ofShard = `job="$job", instance=~"$instance", shard=~"$shard"`
)

// quantile is the q-quantile of a histogram by some labels.
func quantile(q, name, selector, by string) string {
	by = strings.TrimPrefix(by+", le", ", ")
	return `histogram_quantile(` + q + `, sum by (` + by + `) (rate(` + name + `_bucket{` + selector + `}[$__rate_interval])))`
}

// rate is what a counter grows by a second.
func rate(name, selector, by string) string {
	return `sum by (` + by + `) (rate(` + name + `{` + selector + `}[$__rate_interval]))`
}

var rows = []row{
	{"Are people served?", []panel{
		{
			title: "Acknowledged within 1 s", about: "Share of the sends of the last five minutes. The promise is 99.9 % in 30 days.", kind: stat, unit: "percentunit",
			queries: []query{{`1 - job:bongsu_sends_bad:ratio_rate5m{` + ofJob + `}`, ""}}, limits: []limit{{-1, "red"}, {0.99, "orange"}, {0.999, "green"}},
		},
		{
			title: "Budget left, 30 days", about: "What is left of the 0.1 %, each hour counted alike.", kind: stat, unit: "percentunit",
			queries: []query{{`1 - avg_over_time(job:bongsu_sends_bad:ratio_rate1h{` + ofJob + `}[30d]) / 0.001`, ""}}, limits: []limit{{-1000, "red"}, {0.1, "orange"}, {0.3, "green"}},
		},
		{
			title: "Shards with an owner", about: "Every shard has exactly one; below 1, some rooms stand still.", kind: stat, unit: "percentunit",
			queries: []query{{`sum(bongsu_shard_owner{` + ofJob + `}) / count(count by (shard) (bongsu_shard_owner{` + ofJob + `}))`, ""}}, limits: []limit{{0, "red"}, {1, "green"}},
		},
		{
			title: "Nodes ready", about: "Of all that are scraped.", kind: stat, unit: "percentunit",
			queries: []query{{`sum(bongsu_gateway_ready{` + ofJob + `}) / count(up{` + ofJob + `})`, ""}}, limits: []limit{{0, "red"}, {0.6, "orange"}, {1, "green"}},
		},
		{
			title: "Connections", about: "Open sockets of people, all nodes.", kind: stat, unit: "short",
			queries: []query{{`sum(bongsu_gateway_sessions{` + ofJob + `})`, ""}},
		},
		{
			title: "Sends", about: "Messages that people ask to have sent.", kind: stat, unit: "reqps",
			queries: []query{{`job:bongsu_sends:rate5m{` + ofJob + `}`, ""}},
		},
		{
			title: "Time to the acknowledgement", about: "From the decoded request to the answer, retries across a change of owner included.", kind: series, unit: "s", noLess: true,
			queries: []query{
				{quantile("0.5", "bongsu_gateway_request_duration_seconds", ofNode+`, method="Send"`, ""), "half"},
				{quantile("0.99", "bongsu_gateway_request_duration_seconds", ofNode+`, method="Send"`, ""), "99 %"},
				{quantile("0.999", "bongsu_gateway_request_duration_seconds", ofNode+`, method="Send"`, ""), "99.9 %"},
			},
			limits: []limit{{1, "red"}},
		},
		{
			title: "Sends by answer", about: "ok, or the code of the refusal. unavailable and resource_exhausted are ours and are tried again by clients; the others are their own.", kind: series, unit: "reqps", noLess: true, stacked: true,
			queries: []query{{rate("bongsu_gateway_requests_total", ofNode+`, method="Send"`, "code"), "{{code}}"}},
		},
		{
			title: "Delay until the readers' connections", about: "From a message's acceptance to its hand-over to sessions, by node. A wrong clock shows here too.", kind: series, unit: "s", noLess: true,
			queries: []query{{quantile("0.99", "bongsu_gateway_feed_delay_seconds", ofNode, "instance"), "{{instance}}"}}, limits: []limit{{1, "red"}},
		},
		{
			title: "Budget burn", about: "Share of bad sends over two windows, with the bounds at which someone is woken (14.4 and 6 times the budget).", kind: series, unit: "percentunit", noLess: true,
			queries: []query{
				{`job:bongsu_sends_bad:ratio_rate1h{` + ofJob + `}`, "1 h"}, {`job:bongsu_sends_bad:ratio_rate6h{` + ofJob + `}`, "6 h"},
			},
			limits: []limit{{0.006, "orange"}, {0.0144, "red"}},
		},
		{
			title: "Alerts", about: "Firing now.", kind: series, unit: "short", noLess: true, stacked: true,
			queries: []query{{`count by (alertname, severity) (ALERTS{alertstate="firing", alertname=~"Bongsu.*"})`, "{{alertname}} ({{severity}})"}},
		},
		{
			title: "Lost positions", about: "Clients presented acknowledgements that the history does not contain. Must stay 0.", kind: series, unit: "short", noLess: true,
			queries: []query{{`sum by (shard) (increase(bongsu_shard_lost_positions_total{` + ofJob + `}[1h]))`, "shard {{shard}}"}}, limits: []limit{{1, "red"}},
		},
	}},
	{"Per shard", []panel{
		{
			title: "Owner of each shard", about: "One line a shard and node; filled where the node owns the shard.", kind: states, unit: "short",
			queries: []query{{`bongsu_shard_owner{` + ofShard + `} == 1`, "{{shard}} {{instance}}"}},
		},
		{
			title: "Shards owned by node", about: "Leaders should be spread evenly.", kind: series, unit: "short", noLess: true, stacked: true,
			queries: []query{{`sum by (instance) (bongsu_shard_owner{` + ofNode + `})`, "{{instance}}"}},
		},
		{
			title: "Why replicas do not serve commands", about: "not_owner is the usual state of a follower; everything else but ok is not.", kind: series, unit: "short", noLess: true, stacked: true,
			queries: []query{{`sum by (reason) (bongsu_shard_condition{` + ofShard + `, reason!="ok"})`, "{{reason}}"}},
		},
		{
			title: "Entries behind", about: "Committed half a minute ago and not applied here.", kind: series, unit: "short", noLess: true,
			queries: []query{{`instance_shard:bongsu_shard_behind:entries{` + ofShard + `}`, "{{shard}} {{instance}}"}}, limits: []limit{{1, "orange"}},
		},
		{
			title: "Records and commands in them", about: "Batches a second, and how many commands share one.", kind: series, unit: "short", noLess: true,
			queries: []query{
				{rate("bongsu_shard_batch_commands_count", ofShard, "shard"), "records/s, {{shard}}"},
				{`sum by (shard) (rate(bongsu_shard_batch_commands_sum{` + ofShard + `}[$__rate_interval])) / sum by (shard) (rate(bongsu_shard_batch_commands_count{` + ofShard + `}[$__rate_interval]))`, "commands a record, {{shard}}"},
			},
		},
		{
			title: "Wait in the queue, 99 %", about: "From arrival to decision: too much work for the processor, or an append that takes long.", kind: series, unit: "s", noLess: true,
			queries: []query{{quantile("0.99", "bongsu_shard_queue_wait_seconds", ofShard, "shard"), "{{shard}}"}},
		},
		{
			title: "Deciding a batch, 99 %", about: "Processor and view.", kind: series, unit: "s", noLess: true,
			queries: []query{{quantile("0.99", "bongsu_shard_decide_duration_seconds", ofShard, "shard"), "{{shard}}"}},
		},
		{
			title: "Append, 99 %", about: "Disk here and at a follower, and the network between.", kind: series, unit: "s", noLess: true,
			queries: []query{{quantile("0.99", "bongsu_shard_append_duration_seconds", ofShard, "shard"), "{{shard}}"}},
		},
		{
			title: "Commands waiting", about: "At most 4,096 a shard; beyond that they are refused.", kind: series, unit: "short", noLess: true,
			queries: []query{{`sum by (shard) (bongsu_shard_queue_depth{` + ofShard + `})`, "{{shard}}"}}, limits: []limit{{3000, "orange"}},
		},
		{
			title: "Refused by condition", about: "By the shard's condition, not by the rules.", kind: series, unit: "reqps", noLess: true, stacked: true,
			queries: []query{{rate("bongsu_shard_commands_refused_total", ofShard, "reason"), "{{reason}}"}},
		},
		{
			title: "Bytes of a record", about: "Encoded; a batch is at most 512 KiB.", kind: series, unit: "bytes", noLess: true,
			queries: []query{
				{quantile("0.5", "bongsu_shard_record_bytes", ofShard, "shard"), "half, {{shard}}"}, {quantile("0.99", "bongsu_shard_record_bytes", ofShard, "shard"), "99 %, {{shard}}"},
			},
		},
		{
			title: "Items for the gateways", about: "What replicas have applied and handed to sessions.", kind: series, unit: "cps", noLess: true,
			queries: []query{{rate("bongsu_shard_feed_items_total", ofShard, "instance"), "{{instance}}"}},
		},
		{
			title: "Views replaced by a snapshot", about: "A replica was too far behind the trimmed journal, or came back empty.", kind: series, unit: "short", noLess: true,
			queries: []query{{`sum by (instance) (increase(bongsu_shard_views_replaced_total{` + ofShard + `}[1h]))`, "{{instance}}"}},
		},
		{
			title: "Unknown outcomes and recoveries", about: "Ownership lost with something in flight; each is settled by what is committed.", kind: series, unit: "short", noLess: true,
			queries: []query{
				{`sum by (shard) (increase(bongsu_shard_commands_unknown_total{` + ofShard + `}[5m]))`, "unknown, {{shard}}"},
				{`sum by (shard) (increase(bongsu_shard_recoveries_total{` + ofShard + `}[5m]))`, "recoveries, {{shard}}"},
			},
		},
		{
			title: "Events by kind", about: "What is journaled and applied.", kind: series, unit: "cps", noLess: true, stacked: true,
			queries: []query{{rate("bongsu_shard_events_total", ofShard, "kind"), "{{kind}}"}},
		},
		{
			title: "Between shards", about: "Effects delivered, and deliveries that failed and are repeated.", kind: series, unit: "cps", noLess: true,
			queries: []query{{rate("bongsu_shard_effects_total", ofShard, "shard"), "{{shard}}"}, {rate("bongsu_shard_effects_failed_total", ofShard, "shard"), "failed, {{shard}}"}},
		},
	}},
	{"Per node", []panel{
		{
			title: "Releases", about: "Which release runs where.", kind: table, unit: "short",
			queries: []query{{`bongsu_build_info{` + ofNode + `}`, ""}},
		},
		{
			title: "Ready", about: "What /readyz says.", kind: series, unit: "short", noLess: true,
			queries: []query{{`bongsu_gateway_ready{` + ofNode + `}`, "{{instance}}"}},
		},
		{
			title: "Processors in use", about: "Of the process.", kind: series, unit: "short", noLess: true,
			queries: []query{{`rate(process_cpu_seconds_total{` + ofNode + `}[$__rate_interval])`, "{{instance}}"}},
		},
		{
			title: "Memory", about: "Resident, and what Go's heap takes of it.", kind: series, unit: "bytes", noLess: true,
			queries: []query{{`process_resident_memory_bytes{` + ofNode + `}`, "{{instance}}"}, {`go_memstats_heap_inuse_bytes{` + ofNode + `}`, "heap, {{instance}}"}},
		},
		{
			title: "Descriptors in use", about: "Of what the process may open; a connection is one.", kind: series, unit: "percentunit", noLess: true,
			queries: []query{{`process_open_fds{` + ofNode + `} / process_max_fds{` + ofNode + `}`, "{{instance}}"}}, limits: []limit{{0.85, "red"}},
		},
		{
			title: "Longest pauses of the collector", about: "99.9 % of Go's stops are shorter.", kind: series, unit: "s", noLess: true,
			queries: []query{{quantile("0.999", "go_sched_pauses_total_gc_seconds", ofNode, "instance"), "{{instance}}"}},
		},
		{
			title: "Goroutines", about: "Idle connections have none.", kind: series, unit: "short", noLess: true,
			queries: []query{{`go_goroutines{` + ofNode + `}`, "{{instance}}"}},
		},
		{
			title: "Clock", about: "Difference from Prometheus' clock.", kind: series, unit: "s",
			queries: []query{{`bongsu_node_clock_seconds{` + ofNode + `} - timestamp(bongsu_node_clock_seconds{` + ofNode + `})`, "{{instance}}"}},
		},
		{
			title: "Nodes that others hear of", about: "By each node, whom it has heard of lately.", kind: series, unit: "short", noLess: true,
			queries: []query{{`sum by (peer) (bongsu_node_peer_up{` + ofJob + `})`, "{{peer}}"}},
		},
		{
			title: "Certificates", about: "How long they are still good.", kind: series, unit: "s", noLess: true,
			queries: []query{{`bongsu_node_certificate_expiry_timestamp_seconds{` + ofNode + `} - time()`, "{{use}}, {{instance}}"}},
		},
		{
			title: "Started", about: "Time since the process started; a drop is a restart.", kind: series, unit: "s", noLess: true,
			queries: []query{{`time() - process_start_time_seconds{` + ofNode + `}`, "{{instance}}"}},
		},
		{
			title: "Panics", about: "Caught, the request refused; a defect of ours each.", kind: series, unit: "short", noLess: true,
			queries: []query{
				{`sum by (instance) (increase(bongsu_gateway_panics_total{` + ofNode + `}[1h]))`, "gateway, {{instance}}"},
				{`sum by (instance) (increase(bongsu_shard_panics_total{` + ofNode + `}[1h]))`, "shards, {{instance}}"},
			},
			limits: []limit{{1, "red"}},
		},
	}},
	{"Journal and disk", []panel{
		{
			title: "fsync of the journal", about: "Every acknowledgement waits for one on a quorum.", kind: series, unit: "s", noLess: true,
			queries: []query{
				{quantile("0.5", "bongsu_journal_fsync_duration_seconds", ofNode, "instance"), "half, {{instance}}"},
				{quantile("0.99", "bongsu_journal_fsync_duration_seconds", ofNode, "instance"), "99 %, {{instance}}"},
			},
			limits: []limit{{0.05, "red"}},
		},
		{
			title: "fsyncs", about: "Shards share them when they come at the same time.", kind: series, unit: "iops", noLess: true,
			queries: []query{{rate("bongsu_journal_fsync_duration_seconds_count", ofNode, "instance"), "{{instance}}"}},
		},
		{
			title: "Free on the disk", about: "At the reserve, sends are refused.", kind: series, unit: "bytes", noLess: true,
			queries: []query{{`bongsu_journal_disk_free_bytes{` + ofNode + `}`, "journal, {{instance}}"}, {`bongsu_view_disk_free_bytes{` + ofNode + `}`, "view, {{instance}}"}, {`bongsu_journal_disk_reserve_bytes{` + ofNode + `}`, "reserve, {{instance}}"}},
		},
		{
			title: "Size of the stores", about: "Journal: trimmed behind what everyone has. View: what is read.", kind: series, unit: "bytes", noLess: true,
			queries: []query{{`bongsu_journal_store_bytes{` + ofNode + `}`, "journal, {{instance}}"}, {`bongsu_view_store_bytes{` + ofNode + `}`, "view, {{instance}}"}},
		},
		{
			title: "Fenced stores and mendings", about: "A store that met an error accepts nothing any more; a node of a cluster mends it.", kind: series, unit: "short", noLess: true,
			queries: []query{
				{`bongsu_journal_fenced{` + ofNode + `}`, "journal fenced, {{instance}}"}, {`bongsu_view_fenced{` + ofNode + `}`, "view fenced, {{instance}}"},
				{`increase(bongsu_node_mendings_total{` + ofNode + `}[1h])`, "mended ({{kind}}) in an hour, {{instance}}"},
			},
			limits: []limit{{1, "red"}},
		},
		{
			title: "Terms", about: "Elections and transfers.", kind: series, unit: "short", noLess: true,
			queries: []query{{`max by (shard) (changes(bongsu_raft_term{` + ofShard + `}[10m]))`, "{{shard}}"}},
		},
		{
			title: "Members behind the leader", about: "Entries that a member's log lacks, as the leader knows.", kind: series, unit: "short", noLess: true,
			queries: []query{{`bongsu_raft_member_lag_entries{` + ofShard + `}`, "{{shard}}: {{member}}"}},
		},
		{
			title: "Members not heard of", about: "By the shard's leader, within an election's time.", kind: series, unit: "short", noLess: true,
			queries: []query{{`sum by (member) (bongsu_raft_member_active{` + ofShard + `} == bool 0)`, "{{member}}"}},
		},
		{
			title: "Entries kept in the journals", about: "Between what is trimmed and the end.", kind: series, unit: "short", noLess: true,
			queries: []query{{`sum by (instance) (bongsu_raft_last_index{` + ofShard + `} - bongsu_raft_first_index{` + ofShard + `} + 1)`, "{{instance}}"}},
		},
		{
			title: "Snapshots being taken", about: "Bytes that have come from a peer, of the snapshot under way or the last one: a node was away too long or is new.", kind: series, unit: "bytes", noLess: true,
			queries: []query{{`sum by (instance) (bongsu_raft_snapshot_received_bytes{` + ofShard + `})`, "{{instance}}"}},
		},
		{
			title: "Messages between nodes dropped", about: "A peer's inbox was full; Raft sends again.", kind: series, unit: "cps", noLess: true,
			queries: []query{{rate("bongsu_raft_dropped_messages_total", ofShard, "instance"), "{{instance}}"}},
		},
		{
			title: "Backup behind", about: "How old the oldest entry may be that the backup lacks; 0: it has all.", kind: series, unit: "s", noLess: true,
			queries: []query{{`max by (instance) (bongsu_backup_lag_seconds{` + ofNode + `})`, "{{instance}}"}}, limits: []limit{{900, "red"}},
		},
		{
			title: "Backup", about: "Bytes stored a second, compressed and encrypted, and passes that failed.", kind: series, unit: "Bps", noLess: true,
			queries: []query{{rate("bongsu_backup_bytes_total", ofNode, "instance"), "{{instance}}"}, {rate("bongsu_backup_failures_total", ofNode, "instance"), "failed, {{instance}}"}},
		},
	}},
	{"Gateway", []panel{
		{
			title: "Connections by node", about: "At most 20,000 a node.", kind: series, unit: "short", noLess: true, stacked: true,
			queries: []query{{`bongsu_gateway_sessions{` + ofNode + `}`, "{{instance}}"}},
		},
		{
			title: "Other connections", about: "Of people, that are no sessions; and those a second that were closed at once because there were too many.", kind: series, unit: "short", noLess: true,
			queries: []query{{`bongsu_node_open_connections{` + ofNode + `}`, "{{instance}}"}, {rate("bongsu_node_connections_refused_total", ofNode, "instance"), "refused a second, {{instance}}"}},
			limits:  []limit{{1800, "orange"}},
		},
		{
			title: "Handshakes", about: "New sockets by result; a wave of them is everyone coming back.", kind: series, unit: "reqps", noLess: true, stacked: true,
			queries: []query{{rate("bongsu_gateway_handshakes_total", ofNode, "result"), "{{result}}"}},
		},
		{
			title: "What carries connections", about: "epoll for plain ones, a goroutine for those with TLS in the process.", kind: series, unit: "short", noLess: true, stacked: true,
			queries: []query{{`sum by (driver) (bongsu_gateway_driven_sessions{` + ofNode + `})`, "{{driver}}"}},
		},
		{
			title: "Requests by method", about: "Sockets and RPC alike.", kind: series, unit: "reqps", noLess: true, stacked: true,
			queries: []query{{rate("bongsu_gateway_requests_total", ofNode, "method"), "{{method}}"}},
		},
		{
			title: "Time by method, 99 %", about: "From the decoded request to the answer.", kind: series, unit: "s", noLess: true,
			queries: []query{{quantile("0.99", "bongsu_gateway_request_duration_seconds", ofNode, "method"), "{{method}}"}},
		},
		{
			title: "Requests by code", about: "But for ok.", kind: series, unit: "reqps", noLess: true, stacked: true,
			queries: []query{{rate("bongsu_gateway_requests_total", ofNode+`, code!="ok"`, "code"), "{{code}}"}},
		},
		{
			title: "In flight by class", about: "Admission bounds them; a reserve belongs to sends.", kind: series, unit: "short", noLess: true, stacked: true,
			queries: []query{{`sum by (class) (bongsu_gateway_requests_in_flight{` + ofNode + `})`, "{{class}}"}},
		},
		{
			title: "Turned away by class", about: "Before any work was done.", kind: series, unit: "reqps", noLess: true, stacked: true,
			queries: []query{{rate("bongsu_gateway_admission_refused_total", ofNode, "class"), "{{class}}"}},
		},
		{
			title: "Tried again inside", about: "Commands and queries submitted again within their deadline, across a change of owner.", kind: series, unit: "reqps", noLess: true,
			queries: []query{{rate("bongsu_gateway_backend_retries_total", ofNode, "instance"), "{{instance}}"}},
		},
		{
			title: "Frames", about: "WebSocket messages in and out, and the writes that carried those out.", kind: series, unit: "cps", noLess: true,
			queries: []query{
				{rate("bongsu_gateway_frames_in_total", ofNode, "protocol"), "in, {{protocol}}"}, {rate("bongsu_gateway_frames_out_total", ofNode, "protocol"), "out, {{protocol}}"},
				{rate("bongsu_gateway_writes_total", ofNode, "job"), "writes"},
			},
		},
		{
			title: "Events dropped", about: "A session's queue was full; it was told and reads the history.", kind: series, unit: "cps", noLess: true,
			queries: []query{{rate("bongsu_gateway_events_dropped_total", ofNode, "instance"), "{{instance}}"}},
		},
		{
			title: "Bytes that sessions hold", about: "Unfinished messages in, and frames not written yet.", kind: series, unit: "bytes", noLess: true,
			queries: []query{{`sum by (where) (bongsu_gateway_held_bytes{` + ofNode + `})`, "{{where}}"}},
		},
		{
			title: "Passwords", about: "Waiting to be hashed, and turned away.", kind: series, unit: "short", noLess: true,
			queries: []query{
				{`sum by (instance) (bongsu_gateway_argon2_waiting{` + ofNode + `})`, "waiting, {{instance}}"},
				{rate("bongsu_gateway_argon2_turned_away_total", ofNode, "instance"), "turned away a second, {{instance}}"},
			},
		},
		{
			title: "Wait for a password's turn, 90 %", about: "One is hashed a processor at a time.", kind: series, unit: "s", noLess: true,
			queries: []query{{quantile("0.9", "bongsu_gateway_argon2_wait_seconds", ofNode, "instance"), "{{instance}}"}},
		},
		{
			title: "Unusual", about: "Sessions honoured while their shard could not be asked, frames that are no request, feed items that cannot be read, devices revoked lately.", kind: series, unit: "short", noLess: true,
			queries: []query{
				{rate("bongsu_gateway_grace_sessions_total", ofNode, "job"), "graces a second"}, {rate("bongsu_gateway_frames_bad_total", ofNode, "kind"), "bad frames, {{kind}}"},
				{rate("bongsu_gateway_feed_bad_total", ofNode, "job"), "bad feed items"}, {`sum(bongsu_gateway_revoked_devices{` + ofNode + `})`, "revoked devices"},
			},
		},
	}},
}
