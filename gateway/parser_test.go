package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

func masked(op ws.OpCode, fin bool, s string) []byte {
	f := ws.MaskFrameWith(ws.NewFrame(op, fin, []byte(s)), [4]byte{1, 2, 3, 4})
	return ws.MustCompileFrame(f)
}

// parse feeds data in pieces of the lengths that cut gives and collects what
// comes out; the error is the parser's.
func parse(t testing.TB, data []byte, cut func() int) (all []wireMessage, err error) {
	t.Helper()
	var p parser
	data = bytes.Clone(data) // it is unmasked in place
	for came := 0; came < len(data); {
		n := min(max(cut(), 1), len(data)-came)
		piece := bytes.Clone(data[came : came+n])
		came += n
		for len(piece) > 0 {
			m, ok, used, err := p.next(piece)
			piece = piece[used:]
			if err != nil {
				return all, err
			}
			if ok {
				m.data = bytes.Clone(m.data)
				all = append(all, m)
			} else if len(piece) > 0 {
				t.Fatal("the parser left something without having a message")
			}
		}
		if held := p.held(); held > came+came/4+256 {
			t.Fatalf("%d bytes held when %d had come", held, came)
		}
	}
	return all, nil
}

func whole() int { return 1 << 30 }

// referenceParse reads the same with a blocking reader, frame by frame.
func referenceParse(data []byte) (all []wireMessage, err error) {
	in := bytes.NewReader(data)
	parts, dropped := 0, int64(0)
	var m wireMessage
	for {
		h, err := ws.ReadHeader(in)
		if errors.Is(err, ws.ErrHeaderLengthMSB) {
			return all, &protocolError{ws.StatusProtocolError, err}
		}
		if err != nil {
			return all, nil // the rest of it has not come
		}
		state := ws.StateServerSide
		if parts > 0 {
			state = state.Set(ws.StateFragmented)
		}
		if err := ws.CheckHeader(h, state); err != nil {
			return all, &protocolError{ws.StatusProtocolError, err}
		}
		if !h.OpCode.IsControl() {
			if parts == 0 {
				m, dropped = wireMessage{opCode: h.OpCode}, 0
			}
			if parts++; parts > maxFragments {
				return all, &protocolError{ws.StatusMessageTooBig, errors.New("fragments")}
			}
			rest := h.Length - int64(maxFrameBytes-len(m.data))
			if rest > 0 {
				m.tooBig = true
				if rest > maxDiscardBytes || dropped+rest > maxDiscardBytes {
					return all, &protocolError{ws.StatusMessageTooBig, errors.New("length")}
				}
				dropped += rest
			}
		}
		if h.Length > int64(in.Len()) {
			return all, nil
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(in, payload); err != nil {
			return all, err
		}
		ws.Cipher(payload, h.Mask, 0)
		if h.OpCode.IsControl() {
			all = append(all, wireMessage{opCode: h.OpCode, data: payload})
			continue
		}
		m.data = append(m.data, payload[:min(len(payload), maxFrameBytes-len(m.data))]...)
		if h.Fin {
			all = append(all, m)
			parts = 0
		}
	}
}

func same(a, b []wireMessage) error {
	if len(a) != len(b) {
		return fmt.Errorf("%d messages against %d", len(a), len(b))
	}
	for i := range a {
		if a[i].opCode != b[i].opCode || a[i].tooBig != b[i].tooBig || !bytes.Equal(a[i].data, b[i].data) {
			return fmt.Errorf("message %d: %v of %d bytes (too big %v) against %v of %d (%v)", i,
				a[i].opCode, len(a[i].data), a[i].tooBig, b[i].opCode, len(b[i].data), b[i].tooBig)
		}
	}
	return nil
}

func code(err error) closeCode {
	var breach *protocolError
	if errors.As(err, &breach) {
		return breach.code
	}
	return 0
}

func TestParserReads(t *testing.T) {
	big := strings.Repeat("x", maxFrameBytes)
	long := strings.Repeat("abcdefg", 2000) // so that no piece hides an offset of the mask
	data := bytes.Join([][]byte{
		masked(ws.OpBinary, false, "xyz"), masked(ws.OpContinuation, true, long),
		masked(ws.OpText, true, "whole"),
		masked(ws.OpText, false, "in "), masked(ws.OpPing, true, "p"), masked(ws.OpContinuation, false, "three "), masked(ws.OpContinuation, true, "parts"),
		masked(ws.OpBinary, true, big),
		masked(ws.OpBinary, true, big+"y"),
		masked(ws.OpBinary, false, big[1:]), masked(ws.OpContinuation, false, "yz"), masked(ws.OpContinuation, true, "more"),
		masked(ws.OpBinary, true, ""),
		masked(ws.OpClose, true, "\x03\xe8bye"),
	}, nil)
	want := []wireMessage{
		{ws.OpBinary, []byte("xyz" + long), false},
		{ws.OpText, []byte("whole"), false},
		{ws.OpPing, []byte("p"), false},
		{ws.OpText, []byte("in three parts"), false},
		{ws.OpBinary, []byte(big), false},
		{ws.OpBinary, []byte(big), true},
		{ws.OpBinary, []byte(big[1:] + "y"), true},
		{ws.OpBinary, nil, false},
		{ws.OpClose, []byte("\x03\xe8bye"), false},
	}
	random := rand.New(rand.NewPCG(1, 2))
	for name, cut := range map[string]func() int{
		"at once": whole, "byte by byte": func() int { return 1 }, "three by three": func() int { return 3 },
		"as it comes": func() int { return random.IntN(3000) },
	} {
		got, err := parse(t, data, cut)
		if err == nil {
			err = same(got, want)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParserRefuses(t *testing.T) {
	var many [][]byte
	many = append(many, masked(ws.OpText, false, "x"))
	for range maxFragments {
		many = append(many, masked(ws.OpContinuation, false, "x"))
	}
	announce := func(first byte, length ...byte) []byte {
		return append(append([]byte{first, 0xff}, length...), 1, 2, 3, 4)
	}
	reserved := masked(ws.OpText, true, "x")
	reserved[0] |= 0x40
	for name, c := range map[string]struct {
		frames [][]byte
		code   closeCode
	}{
		"not masked":          {[][]byte{ws.MustCompileFrame(ws.NewTextFrame([]byte("x")))}, ws.StatusProtocolError},
		"reserved bit":        {[][]byte{reserved}, ws.StatusProtocolError},
		"reserved kind":       {[][]byte{masked(3, true, "x")}, ws.StatusProtocolError},
		"long ping":           {[][]byte{masked(ws.OpPing, true, strings.Repeat("x", 126))}, ws.StatusProtocolError},
		"ping in parts":       {[][]byte{masked(ws.OpPing, false, "x")}, ws.StatusProtocolError},
		"continues nothing":   {[][]byte{masked(ws.OpContinuation, true, "x")}, ws.StatusProtocolError},
		"begins twice":        {[][]byte{masked(ws.OpText, false, "x"), masked(ws.OpText, true, "x")}, ws.StatusProtocolError},
		"negative length":     {[][]byte{announce(0x82, 0x80, 0, 0, 0, 0, 0, 0, 0)}, ws.StatusProtocolError},
		"far too long":        {[][]byte{announce(0x82, 0, 0, 1, 0, 0, 0, 0, 0)}, ws.StatusMessageTooBig},
		"far too many pieces": {many, ws.StatusMessageTooBig},
		"too long in parts": {[][]byte{
			masked(ws.OpBinary, false, strings.Repeat("x", maxFrameBytes+5<<20)), masked(ws.OpContinuation, true, strings.Repeat("x", 5<<20)),
		}, ws.StatusMessageTooBig},
		// 8 MiB that are thrown away and then as much as a number holds: the sum overflows.
		"overflowing": {[][]byte{
			masked(ws.OpBinary, false, strings.Repeat("x", maxFrameBytes+maxDiscardBytes)), announce(0x80, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		}, ws.StatusMessageTooBig},
	} {
		data := bytes.Join(c.frames, nil)
		for size, cut := range map[string]func() int{"at once": whole, "in pieces": func() int { return 1021 }} {
			if _, err := parse(t, data, cut); code(err) != c.code {
				t.Errorf("%s, %s: %v, want close code %d", name, size, err, c.code)
			}
		}
	}
}

// What a client announces costs nothing until it is sent.
func TestAnnouncedLengthAllocatesNothing(t *testing.T) {
	announce := []byte{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4} // 64 KiB, then silence
	allocated := testing.Benchmark(func(b *testing.B) {
		data := make([]byte, len(announce))
		for b.Loop() {
			var p parser
			copy(data, announce)
			if _, ok, _, err := p.next(data); ok || err != nil || p.held() != 0 {
				b.Fatalf("a message out of nothing: %v, %v, %d held", ok, err, p.held())
			}
		}
	}).AllocedBytesPerOp()
	if allocated > 0 {
		t.Errorf("%d bytes for a message that never came", allocated)
	}
}

// A whole message is handed on where it lies.
func TestParserCopiesNoWholeMessage(t *testing.T) {
	frame := masked(ws.OpBinary, true, strings.Repeat("x", 1000))
	data := make([]byte, len(frame))
	var p parser
	if n := testing.AllocsPerRun(100, func() {
		copy(data, frame)
		if _, ok, _, err := p.next(data); !ok || err != nil {
			t.Fatal("no message")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Any bytes, cut up in any way, give what the reference reads, and hold no
// more than has come.
func FuzzParser(f *testing.F) {
	f.Add(masked(ws.OpText, true, "whole"), uint64(1))
	f.Add(append(masked(ws.OpText, false, "a"), masked(ws.OpContinuation, true, "b")...), uint64(2))
	f.Add(bytes.Join([][]byte{masked(ws.OpText, false, "a"), masked(ws.OpPing, true, "ping"), masked(ws.OpContinuation, true, "b"), masked(ws.OpClose, true, "")}, nil), uint64(3))
	f.Add([]byte{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4}, uint64(4))
	f.Add([]byte{0x82, 0xfe, 0, 3, 1, 2, 3, 4, 'x', 'y', 'z', 0x89, 0x80}, uint64(5))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		want, wantErr := referenceParse(data)
		random := rand.New(rand.NewPCG(seed, 0))
		for _, cut := range []func() int{whole, func() int { return 1 }, func() int { return random.IntN(20) }} {
			got, err := parse(t, data, cut)
			if err := same(got, want); err != nil {
				t.Fatal(err)
			}
			if code(err) != code(wantErr) {
				t.Fatalf("%v, want %v", err, wantErr)
			}
		}
	})
}
