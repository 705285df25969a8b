package raft

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/bongsu-im/bongsu/journal"
)

func groupConf(voters ...uint64) *raftpb.ConfState { return &raftpb.ConfState{Voters: voters} }

func message(kind raftpb.MessageType, entries ...*raftpb.Entry) *raftpb.Message {
	return &raftpb.Message{Type: kind.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(uint64(7)), LogTerm: new(uint64(6)), Index: new(uint64(8)), Entries: entries}
}

func parcels() []Parcel {
	return []Parcel{
		{Shard: 3, Message: message(raftpb.MsgApp, entry(6, 9, payload([]byte("봉수"))), entry(7, 10, nil))},
		{Shard: 0},
		{Shard: 4, Reminder: journal.Position{Term: 3, Index: 4}},
		{Shard: 4095, Message: message(raftpb.MsgHeartbeat)},
	}
}

func pack(t testing.TB, ps []Parcel) []byte {
	t.Helper()
	b := beginFrame(nil, frameParcels)
	for _, p := range ps {
		var err error
		if b, err = appendParcel(b, p); err != nil {
			t.Fatal(err)
		}
	}
	return endFrame(b)
}

func TestFrames(t *testing.T) {
	frame := pack(t, parcels())
	kind, body, _, err := readFrame(bytes.NewReader(frame), nil, maxFrameBytes)
	if err != nil || kind != frameParcels {
		t.Fatalf("kind %d, %v", kind, err)
	}
	n := 0
	if err := parseParcels(body, func(p Parcel) {
		want := parcels()[n]
		if p.Shard != want.Shard || p.Reminder != want.Reminder || !proto.Equal(p.Message, want.Message) {
			t.Errorf("parcel %d came as %+v", n, p)
		}
		n++
	}); err != nil || n != len(parcels()) {
		t.Fatalf("%d parcels, %v", n, err)
	}
	for bit := range 8 * len(frame) {
		frame[bit/8] ^= 1 << (bit % 8)
		if _, _, _, err := readFrame(bytes.NewReader(frame), nil, maxFrameBytes); err == nil {
			t.Fatalf("bit %d flipped and not noticed", bit)
		}
		frame[bit/8] ^= 1 << (bit % 8)
	}
	for n := range frame {
		_, _, _, err := readFrame(bytes.NewReader(frame[:n]), nil, maxFrameBytes)
		if err == nil || (n > 0 && errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && n >= 8) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if _, _, _, err := readFrame(bytes.NewReader(frame), nil, len(frame)-9); !errors.Is(err, errFrame) {
		t.Fatalf("a frame over the limit: %v", err)
	}
	big := message(raftpb.MsgApp)
	big.Context = make([]byte, maxMessageBytes)
	if _, err := appendParcel(nil, Parcel{Message: big}); err == nil {
		t.Fatal("a message over the limit is sent")
	}
}

// TestGoldenWire holds what travels between nodes of this version.
func TestGoldenWire(t *testing.T) {
	tcp := &TCP{self: Identity{Cluster: ClusterID{1}, Node: 2, Incarnation: [16]byte{3}, Shards: 16}}
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"parcels", pack(t, parcels()[1:3]), wantParcels},
		{"hello", tcp.hello([]byte{formatVersion}), wantHello},
		{"identity", encodeIdentity(tcp.self), wantIdentity},
		{"peer", encodePeer(2, tcp.self.Incarnation), wantPeer},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s is now\n%s, was\n%s", c.name, got, c.want)
		}
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(pack(f, parcels()))
	f.Add(endFrame(beginFrame(nil, framePing)))
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, body, _, err := readFrame(bytes.NewReader(b), nil, maxFrameBytes)
		if err == nil && !bytes.Equal(endFrame(append(beginFrame(nil, kind), body...)), b[:frameHeader+len(body)]) {
			t.Fatal("a frame reads and writes to something else")
		}
	})
}

func FuzzParcels(f *testing.F) {
	f.Add(pack(f, parcels())[frameHeader:])
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = parseParcels(b, func(p Parcel) {
			again, err := appendParcel(nil, p)
			if err != nil {
				return
			}
			if err := parseParcels(again, func(q Parcel) {
				if q.Shard != p.Shard || q.Reminder != p.Reminder || !proto.Equal(q.Message, p.Message) {
					t.Fatal("a parcel reads and writes to something else")
				}
			}); err != nil {
				t.Fatalf("what was read cannot be read again: %v", err)
			}
		})
	})
}

func FuzzHandshake(f *testing.F) {
	tcp := &TCP{self: Identity{Node: 2, Shards: 16}}
	f.Add(tcp.hello([]byte{formatVersion, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2}))
	f.Fuzz(func(t *testing.T, b []byte) {
		peer, greeting, err := parseHello(b)
		if err != nil {
			return
		}
		if again := (&TCP{self: peer}).hello(greeting); !bytes.Equal(again, b) {
			t.Fatal("a hello reads and writes to something else")
		}
		_, _ = parseGreeting(greeting)
	})
}

func FuzzSnapshotHeader(f *testing.F) {
	s := base{at: journal.Position{Term: 7, Index: 90}, conf: groupConf(1), spans: []span{{7, 80}}}
	b, err := proto.Marshal(s.message(3))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte{0, 0, 0, byte(len(b))}, b...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := readBase(3, bytes.NewReader(b)); err == nil {
			if _, err := decodeBase(3, s.message(3)); err != nil {
				t.Fatalf("what was read cannot be read again: %v", err)
			}
		}
	})
}

const (
	wantParcels  = "0000001f9042317f05000002000000000004030000001000000000000000030000000000000004"
	wantHello    = "626f6e6773752d706565720a000101000000000000000000000000000000000000000000000203000000000000000000000000000000001001"
	wantIdentity = "010100000000000000000000000000000003000000000000000000000000000000ef39c4ee"
	wantPeer     = "010000000000000002030000000000000000000000000000009fb4ac50"
)
