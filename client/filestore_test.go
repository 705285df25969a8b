package client

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/bongsu-im/bongsu/internal/durable"
)

func testSeed(t *testing.T) uint64 {
	t.Helper()
	s := rand.Uint64()
	if v, err := strconv.ParseUint(os.Getenv("BONGSU_SEED"), 10, 64); err == nil {
		s = v
	}
	t.Logf("BONGSU_SEED=%d", s)
	return s
}

// What was reported as stored is there after a power cut, whole and in order,
// whatever became of the bytes that were not; nothing appears that was not put in.
func TestFileStoreSurvivesCuts(t *testing.T) {
	s := testSeed(t)
	random := rand.New(rand.NewPCG(s, 0))
	disk := durable.NewCrashable()
	model := newTable()
	for round := range 30 {
		store, err := OpenFileStore(disk, "outbox")
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if got, want := store.Entries(), model.list(); !reflect.DeepEqual(got, want) {
			t.Fatalf("round %d: %d entries, want %d", round, len(got), len(want))
		}
		for step := range 50 {
			c := randomChange(random, &model, round*1000+step)
			switch c.kind {
			case changeAdd:
				err = store.Add(c.entry)
			case changeAck:
				err = store.SetAck(c.entry.ClientID, *c.entry.Ack)
			default:
				err = store.Remove(c.entry.ClientID)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := model.apply(c); err != nil {
				t.Fatal(err)
			}
		}
		disk = disk.Crash(random.Float64(), random.Uint64())
		_ = store.Close() // of the old disk, which nobody reads again
	}
}

func randomChange(random *rand.Rand, t *table, n int) change {
	ids := t.live()
	if len(ids) == 0 || random.IntN(2) == 0 {
		return change{kind: changeAdd, entry: Entry{
			RoomID: "room", ClientID: fmt.Sprint("id-", n), Text: strings.Repeat("봉수", random.IntN(2000)),
			ReplyTo: random.Uint64(), CreatedMs: random.Int64(),
		}}
	}
	id := ids[random.IntN(len(ids))]
	if random.IntN(2) == 0 {
		return change{kind: changeRemove, entry: Entry{ClientID: id}}
	}
	return change{kind: changeAck, entry: Entry{ClientID: id, Ack: &Ack{
		Seq: random.Uint64(), AckedMs: random.Int64(), Shard: random.Uint32(), Term: random.Uint64(), Index: random.Uint64(),
	}}}
}

func TestFileStoreCompacts(t *testing.T) {
	name := filepath.Join(t.TempDir(), "outbox")
	store, err := OpenFileStore(durable.Disk, name)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		if err := store.Add(Entry{RoomID: "r", ClientID: strconv.Itoa(i), Text: strings.Repeat("x", 30_000)}); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			if err := store.Remove(strconv.Itoa(i - 1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > compactAt+100_000 {
		t.Errorf("%d bytes for one message of 30,000", info.Size())
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if store, err = OpenFileStore(durable.Disk, name); err != nil {
		t.Fatal(err)
	}
	if e := store.Entries(); len(e) != 1 || e[0].ClientID != "39" || store.Damaged() != 0 {
		t.Errorf("%d entries, %d bytes damaged", len(e), store.Damaged())
	}
	if _, err := OpenFileStore(durable.Disk, name); err == nil {
		t.Error("one file was opened twice")
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := store.Add(Entry{ClientID: "late"}); err == nil {
		t.Error("a closed store took an entry")
	}
}

// A flipped bit anywhere is seen; what stands before it is kept, what follows
// is set aside, not deleted.
func TestFileStoreSeesDamage(t *testing.T) {
	m := newTable()
	for i := range 5 {
		if err := m.apply(change{kind: changeAdd, entry: Entry{RoomID: "r", ClientID: strconv.Itoa(i), Text: "words"}}); err != nil {
			t.Fatal(err)
		}
	}
	sound := encodeStore(&m)
	for at := len(storeHeader); at < len(sound); at++ {
		b := bytes.Clone(sound)
		b[at] ^= 1 << (at % 8)
		got, good := decodeStore(b)
		if good == len(b) || good > at {
			t.Fatalf("a flipped bit at %d of %d passed (%d good)", at, len(b), good)
		}
		if list := got.list(); !reflect.DeepEqual(list, m.list()[:len(list)]) {
			t.Fatalf("a flipped bit at %d changed what is before it", at)
		}
	}
	disk := durable.NewCrashable()
	sound[len(sound)-60] ^= 1
	if err := durable.WriteFile(disk, "outbox", bytes.Clone(sound), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := OpenFileStore(disk, "outbox")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	aside, err := durable.ReadFile(disk, "outbox.damaged")
	if err != nil || int64(len(aside)) != store.Damaged() || !bytes.HasSuffix(sound, aside) {
		t.Errorf("%d bytes set aside, %d damaged: %v", len(aside), store.Damaged(), err)
	}
}

// Invariant 7: after the first failed write or fsync the store takes nothing more.
func TestFileStoreFencesOnTheFirstError(t *testing.T) {
	store, err := OpenFileStore(durable.NewCrashable(), "outbox")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	broken := errors.New("no space left")
	works := store.sync
	store.sync = func() error { return broken }
	if err := store.Add(Entry{ClientID: "a"}); !errors.Is(err, broken) {
		t.Fatalf("Add = %v", err)
	}
	store.sync = works
	if err := store.Add(Entry{ClientID: "b"}); !errors.Is(err, broken) {
		t.Fatalf("Add after a failed fsync = %v", err)
	}
	if len(store.Entries()) != 0 {
		t.Error("an entry that was not stored is listed")
	}
}

func FuzzDecodeStore(f *testing.F) {
	m := newTable()
	for _, c := range []change{
		{kind: changeAdd, entry: Entry{RoomID: "r", ClientID: "a", Text: "words", ReplyTo: 3, CreatedMs: 1}},
		{kind: changeAck, entry: Entry{ClientID: "a", Ack: &Ack{Seq: 1, Shard: 2, Term: 3, Index: 4}}},
	} {
		if err := m.apply(c); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(encodeStore(&m))
	f.Add([]byte(storeHeader))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, good := decodeStore(b)
		if good < 0 || good > len(b) {
			t.Fatalf("%d of %d bytes are good", good, len(b))
		}
		// What was understood is written and read as the same.
		again, _ := decodeStore(encodeStore(&got))
		if !reflect.DeepEqual(got.list(), again.list()) {
			t.Fatal("another table after writing and reading")
		}
		if len(b) > 0 {
			// Bodies behind the checksum are decoded too.
			if c, err := decodeBody(b); err == nil {
				r, err := appendRecord(nil, c)
				if err != nil {
					return // longer than a record may be
				}
				if back, n, err := decodeRecord(r); err != nil || n != len(r) || !reflect.DeepEqual(back, c) {
					t.Fatalf("%+v came back as %+v, %v", c, back, err)
				}
			}
		}
	})
}

func FuzzDecodeFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{8, 1, 18, 0})
	f.Add([]byte{26, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := decodeFrame(b)
		if err == nil && frame.GetId() == 0 && frame.GetEvent() == nil && frame.GetError() == nil {
			t.Fatal("a frame without id is neither event nor error")
		}
	})
}
