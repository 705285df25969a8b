package chat

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// The overlay reads like the transaction below with its writes made, and once
// flushed, is it; dropped, it was never there.
func TestOverlayAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		below, want := newMemTx(), newMemTx()
		key := func() []byte { return []byte{byte(rapid.IntRange(0, 40).Draw(t, "key"))} }
		for range rapid.IntRange(0, 10).Draw(t, "before") {
			k := key()
			_, _ = below.Set(k, []byte("old")), want.Set(k, []byte("old"))
		}
		before := below.clone()
		o := newOverlay(below)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			k := key()
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				v := []byte(rapid.SampledFrom([]string{"", "a", "bb"}).Draw(t, "value"))
				_, _ = o.Set(k, v), want.Set(k, v)
			case 1:
				_, _ = o.Delete(k), want.Delete(k)
			case 2:
				got, _ := o.Get(k)
				if w, _ := want.Get(k); string(got) != string(w) || (got == nil) != (w == nil) {
					t.Fatalf("Get(%x) = %q, want %q", k, got, w)
				}
			case 3:
				high, reverse, most := key(), rapid.Bool().Draw(t, "reverse"), rapid.IntRange(1, 50).Draw(t, "most")
				if got, w := shown(o, k, high, reverse, most), shown(want, k, high, reverse, most); got != w {
					t.Fatalf("Scan(%x, %x, %v) = %s, want %s", k, high, reverse, got, w)
				}
			}
		}
		if d := below.difference(before); d != "" {
			t.Fatalf("written before flush: %s", d)
		}
		if rapid.Bool().Draw(t, "drop") {
			o.drop()
			want = before
		}
		if err := o.flush(); err != nil {
			t.Fatal(err)
		}
		if d := below.difference(want); d != "" {
			t.Fatal(d)
		}
	})
}

func shown(r Reader, low, high []byte, reverse bool, most int) (out string) {
	_ = r.Scan(low, high, reverse, func(k, v []byte) bool {
		out += fmt.Sprintf("%x=%s ", k, v)
		most--
		return most > 0
	})
	return out
}

func TestOverlayPassesFailuresOn(t *testing.T) {
	below := newMemTx()
	below.fail = errDisk
	o := newOverlay(below)
	if _, err := o.Get([]byte("k")); !errors.Is(err, errDisk) {
		t.Error(err)
	}
	if err := o.Scan([]byte("a"), []byte("z"), false, nil); !errors.Is(err, errDisk) {
		t.Error(err)
	}
	_ = o.Delete([]byte("k"))
	if err := o.flush(); !errors.Is(err, errDisk) {
		t.Error(err)
	}
	if o.inStore {
		t.Error("the overlay believes to be in the store for ever")
	}
}
