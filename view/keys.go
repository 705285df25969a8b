package view

import "encoding/binary"

// Keys of the state begin with a partition below 0x1000. Ours begin with
// 0xffff, so that they never meet:
//
//	ffff 'i'              what the store was made for, in words
//	ffff 'm' shard (2)    → journal.v1.Mark
//	ffff 'n' shard (2) name → a note of package shard about the whole shard
var infoKey = []byte{0xff, 0xff, 'i'}

func ownKey(kind byte, shard int, name string) []byte {
	k := make([]byte, 0, 5+len(name))
	k = append(k, 0xff, 0xff, kind)
	k = binary.BigEndian.AppendUint16(k, uint16(shard))
	return append(k, name...)
}

func partitionKey(p int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(p)) }
