package postgres

// statements are the SQL texts with the schema's name in them.
type statements struct {
	shard, terms, tail, longest, ends string
	append                            string
	read                              string
	left                              string
	take, dropTerms, addTerm          string
	beat, sweep, others, release      string
	leave, notify, listen             string
	trim, forget                      string
	setEnd, cutTail, cutTerms         string
}

func newStatements(schema string) statements {
	q := func(sql string) string { return in(schema, sql) }
	channel := "bongsu_journal_" + schema
	return statements{
		shard:   q(`SELECT term, owner, owner_node, lineage, end_term, end_index, cut_index FROM @.shards WHERE shard = $1`),
		terms:   q(`SELECT term, start FROM @.terms WHERE shard = $1 ORDER BY term DESC LIMIT $2`),
		tail:    q(`SELECT term FROM @.entries WHERE shard = $1 AND pos = $2`),
		longest: q(`SELECT coalesce(max(pos), 0) FROM @.entries WHERE shard = $1 AND pos <= $2`),
		ends:    q(`SELECT shard, term, owner, end_term, end_index, cut_index FROM @.shards WHERE shard = ANY($1)`),

		// One statement moves the shards' rows and adds the entries: a row that is
		// of another term, or does not end where the owner believes, is not moved,
		// and what is not moved is not added. The row's lock is what serialises.
		append: q(`WITH given AS (
	SELECT * FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[]) AS g (shard, term, prev, crc, data)
), moved AS (
	UPDATE @.shards s SET end_index = g.prev + 1, end_term = g.term FROM given g
	WHERE s.shard = g.shard AND s.term = g.term AND s.owner = $6 AND s.end_index = g.prev
	RETURNING s.shard, s.end_index
)
INSERT INTO @.entries (shard, pos, term, crc, data)
SELECT g.shard, m.end_index, g.term, g.crc, g.data FROM moved m JOIN given g ON g.shard = m.shard
RETURNING shard`),

		// A page by count, cut by bytes; the first entry always.
		read: q(`SELECT pos, term, crc, data FROM (
	SELECT pos, term, crc, data, sum(octet_length(data)) OVER (ORDER BY pos) AS bytes FROM (
		SELECT pos, term, crc, data FROM @.entries WHERE shard = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT 1024
	) page
) sized WHERE bytes <= $4 OR pos = $2 + 1 ORDER BY pos`),

		left: q(`SELECT coalesce(max(extract(epoch FROM i.alive_until - clock_timestamp())), 0)::float8
	FROM @.shards s JOIN @.instances i ON i.id = s.owner WHERE s.shard = $1 AND s.owner <> $2 AND s.owner_node <> $3`),

		take:      q(`UPDATE @.shards SET term = $2, owner = $3, owner_node = $4, lineage = $5 WHERE shard = $1`),
		dropTerms: q(`DELETE FROM @.terms WHERE shard = $1 AND (start >= $2 OR term < $3)`), // terms without entries; those beyond the bound
		addTerm:   q(`INSERT INTO @.terms (shard, term, start) VALUES ($1, $2, $3)`),

		beat: q(`INSERT INTO @.instances (id, node, alive_until) VALUES ($1, $2, clock_timestamp() + $3 * interval '1 millisecond')
	ON CONFLICT (id) DO UPDATE SET alive_until = excluded.alive_until`),
		sweep:   q(`DELETE FROM @.instances WHERE alive_until < clock_timestamp() - interval '1 hour'`),
		others:  q(`SELECT EXISTS (SELECT 1 FROM @.instances WHERE id <> $1 AND alive_until > clock_timestamp())`),
		release: q(`UPDATE @.shards SET owner = '', owner_node = '' WHERE owner = $1`),
		leave:   q(`DELETE FROM @.instances WHERE id = $1`),
		notify:  "SELECT pg_notify('" + channel + "', '')",
		listen:  "LISTEN " + channel,

		trim: q(`UPDATE @.shards SET cut_index = greatest(cut_index, $3) WHERE shard = $1 AND term = $2 AND owner = $4`),
		forget: q(`DELETE FROM @.entries WHERE shard = $1 AND pos <= least($2::bigint,
	(SELECT min(pos) FROM @.entries WHERE shard = $1) + 4095)`),

		setEnd:   q(`UPDATE @.shards SET term = $2, owner = '', owner_node = '', end_term = $3, end_index = $4 WHERE shard = $1`),
		cutTail:  q(`DELETE FROM @.entries WHERE shard = $1 AND pos > $2`),
		cutTerms: q(`DELETE FROM @.terms WHERE shard = $1 AND start > $2`),
	}
}
