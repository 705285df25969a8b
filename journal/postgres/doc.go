// Package postgres implements the journal contract on a PostgreSQL-compatible
// cluster that the operator already runs and trusts: PostgreSQL with synchronous
// standbys, YugabyteDB or CockroachDB. The built-in journal is journal/raft; this
// one is for those who have a team for their database.
//
// Vocabulary: a store is one schema with the logs of one cell. An instance is one
// run of one node's journal; it has a row with a time by the database's clock
// until which it counts as alive (the heartbeat). A shard's row says which
// instance owns it, in which term, and where its log ends; every append moves
// that row and names the term and the end that it expects, so a deposed owner is
// refused by the database itself and never by a clock. A link is one connection,
// a round one transaction that carries the appends of several shards. The end
// of a shard, as this process knows it, is the last position that is proven
// durable; what lies behind it may be visible in the database already and is
// still not served, because PostgreSQL shows a commit whose wait for the standby
// was broken off. The marks are a small file on this machine that says what the
// database is known to have held: a database that is rolled back cannot
// contradict itself, so the proof must lie elsewhere.
//
// Concurrency: everything exported may be used from any goroutine. A log's state
// is guarded by its mutex; no other lock is taken under it. Rounds are run by a
// small fixed number of committers, each with a link of its own.
//
// What it does not do: it never retries an append whose outcome is unknown,
// keeps no entries in memory, does not spread ownership over nodes (who asks
// first, owns) and does not work through a pooler in transaction mode, which
// would break the session settings it pins. The log is shared by all nodes, so
// Trim forgets for all of them, and only the owner's takes effect. YugabyteDB
// and CockroachDB are recognised and spared the checks that do not exist there;
// no test of this project has run on them.
package postgres
