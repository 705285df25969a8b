package view

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
)

// encodeAll makes the stream of a few entries.
func encodeAll(t testing.TB, h streamHeader, entries ...[2]string) []byte {
	t.Helper()
	e := newEncoder()
	out, err := e.header(nil, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range entries {
		full, err := e.add([]byte(kv[0]), []byte(kv[1]))
		if err != nil {
			t.Fatal(err)
		}
		if full {
			out = e.flush(out)
		}
	}
	return e.end(e.flush(out))
}

func decodeAll(r io.Reader) (h streamHeader, entries [][2]string, err error) {
	d, h, err := decode(r)
	for err == nil {
		var k, v []byte
		if k, v, err = d.next(); err == nil {
			entries = append(entries, [2]string{string(k), string(v)})
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return h, entries, err
}

func sampleHeader() streamHeader {
	return streamHeader{layout: 1, shards: 4, shard: 2, mark: &journalv1.Mark{
		Term: 3, Index: 300, Hash: bytes.Repeat([]byte{0xab}, 32), Rules: 1,
	}}
}

// What one release has written every later one must read: the bytes are for ever.
func TestStreamGolden(t *testing.T) {
	const want = "01" + "0000003e" + "626f6e67737520766965770001000000010004" + "0002" +
		"080310ac021a20abababababababababababababababababababababababababababababababab2001" + "370a1b07" +
		"02" + "00000010" + "0461626364" + "0576616c7565" + "0361627a" + "00" + "6f687d57" +
		"03" + "00000030" + "0000000000000001" + "0000000000000002" +
		"44e14f910831e0d64789a420518a3ae59840cd0fb144de1d28e5c752bf703918" + "2ca18e6f"
	got := hex.EncodeToString(encodeAll(t, sampleHeader(), [2]string{"abcd", "value"}, [2]string{"abz", ""}))
	if got != want {
		t.Errorf("the stream is\n%s, golden is\n%s", got, want)
	}
	raw, err := hex.DecodeString(want)
	if err != nil {
		t.Fatal(err)
	}
	h, entries, err := decodeAll(bytes.NewReader(raw))
	if err != nil || h.layout != 1 || h.shards != 4 || h.shard != 2 || h.mark.GetIndex() != 300 || fmt.Sprint(entries) != "[[abcd value] [abz ]]" {
		t.Errorf("golden reads as %+v %q, %v", h, entries, err)
	}
}

// Every stream that is not whole, byte for byte, is refused: cut anywhere, with
// any byte changed, or with anything behind its end.
func TestStreamIsWholeOrNothing(t *testing.T) {
	whole := encodeAll(t, sampleHeader(), [2]string{"abcd", "value"}, [2]string{"abz", ""}, [2]string{"b", strings.Repeat("x", pageBytes)}, [2]string{"c", "d"})
	if _, entries, err := decodeAll(bytes.NewReader(whole)); err != nil || len(entries) != 4 {
		t.Fatalf("the whole stream gives %d entries, %v", len(entries), err)
	}
	for at := range whole {
		if at > 200 && at < len(whole)-200 && at%997 != 0 {
			continue // inside the long value one byte is like another
		}
		if _, _, err := decodeAll(bytes.NewReader(whole[:at])); !errors.Is(err, ErrStream) {
			t.Fatalf("cut at %d of %d: %v", at, len(whole), err)
		}
		broken := bytes.Clone(whole)
		broken[at] ^= 0x10
		if _, _, err := decodeAll(bytes.NewReader(broken)); !errors.Is(err, ErrStream) {
			t.Fatalf("byte %d of %d changed: %v", at, len(whole), err)
		}
	}
	if _, _, err := decodeAll(bytes.NewReader(append(bytes.Clone(whole), 0))); !errors.Is(err, ErrStream) {
		t.Errorf("something behind the end: %v", err)
	}
	lost := errors.New("connection lost")
	if _, _, err := decodeAll(io.MultiReader(bytes.NewReader(whole), &failingReader{lost})); !errors.Is(err, lost) {
		t.Errorf("an error in the place of the end: %v", err)
	}
}

type failingReader struct{ err error }

func (f *failingReader) Read([]byte) (int, error) { return 0, f.err }

// Frames in another order, of another kind, or with entries out of order carry
// right checksums and are refused all the same.
func TestStreamOutOfOrder(t *testing.T) {
	head := func(e *encoder) []byte {
		out, err := e.header(nil, sampleHeader())
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	page := func(e *encoder, out []byte, keys ...string) []byte {
		for _, k := range keys {
			if _, err := e.add([]byte(k), []byte("v")); err != nil {
				t.Fatal(err)
			}
		}
		return e.flush(out)
	}
	for name, make := range map[string]func(e *encoder) []byte{
		"keys going down":     func(e *encoder) []byte { return e.end(page(e, head(e), "b", "a")) },
		"a key twice":         func(e *encoder) []byte { return e.end(page(e, page(e, head(e), "a"), "a")) },
		"pages before header": func(e *encoder) []byte { return e.end(page(e, nil, "a")) },
		"two headers":         func(e *encoder) []byte { return e.end(append(head(e), head(e)...)) },
		"an empty page":       func(e *encoder) []byte { return e.end(e.frame(head(e), framePage, nil)) },
		"an empty key":        func(e *encoder) []byte { return e.end(e.frame(head(e), framePage, []byte{0, 1, 'v'})) },
		"an unknown kind":     func(e *encoder) []byte { return e.end(e.frame(head(e), 9, []byte("x"))) },
		"a key beyond bounds": func(e *encoder) []byte {
			return e.end(e.frame(head(e), framePage, append([]byte{0x81, 0x20}, make2(maxKeyBytes+2)...)))
		},
	} {
		if _, _, err := decodeAll(bytes.NewReader(make(newEncoder()))); !errors.Is(err, ErrStream) {
			t.Errorf("%s: %v", name, err)
		}
	}
	e := newEncoder()
	if _, err := e.add(make2(maxKeyBytes+1), nil); err == nil {
		t.Error("a key beyond bounds was encoded")
	}
	if _, err := e.add([]byte("k"), make2(maxValueBytes+1)); err == nil {
		t.Error("a value beyond bounds was encoded")
	}
}

func make2(n int) []byte { return bytes.Repeat([]byte{1}, n) }

// Whatever comes, decoding ends with an error or with what encodes to the same
// bytes, and takes no more memory than came.
func FuzzStream(f *testing.F) {
	whole := encodeAll(f, sampleHeader(), [2]string{"abcd", "value"}, [2]string{"abz", ""})
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add([]byte{framePage, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{frameHeader, 0, 0, 0x10, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, entries, err := decodeAll(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, ErrStream) {
				t.Fatalf("not told as a bad stream: %v", err)
			}
			return
		}
		again, got, err := decodeAll(bytes.NewReader(encodeAll(t, h, entries...)))
		if err != nil || again.mark.GetIndex() != h.mark.GetIndex() || fmt.Sprint(got) != fmt.Sprint(entries) {
			t.Fatalf("encoded again: %v", err)
		}
	})
}
