package postgres

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/bongsu-im/bongsu/journal"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the CRC-32C of an entry's shard, place, length and data, so that a
// right value in a wrong row is noticed too. It is stored, golden-tested, for ever.
func checksum(shard journal.ShardID, p journal.Position, data []byte) uint32 {
	b := make([]byte, 0, 22)
	b = binary.BigEndian.AppendUint16(b, uint16(shard))
	b = binary.BigEndian.AppendUint64(b, uint64(p.Term))
	b = binary.BigEndian.AppendUint64(b, uint64(p.Index))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return crc32.Update(crc32.Checksum(b, castagnoli), castagnoli, data)
}

// row is an entry as the database gave it back.
type row struct {
	index, term, crc int64
	data             []byte
}

// entry checks the row and makes it an entry.
func (r row) entry(shard journal.ShardID) (journal.Entry, error) {
	e := journal.Entry{Position: journal.Position{Term: journal.Term(r.term), Index: journal.Index(r.index)}, Data: r.data}
	if got := checksum(shard, e.Position, r.data); int64(got) != r.crc {
		return e, &journal.CorruptError{Shard: shard, Index: e.Index,
			Cause: fmt.Errorf("checksum %08x of term, index and %d bytes, the row says %08x", got, len(r.data), r.crc)}
	}
	return e, nil
}
