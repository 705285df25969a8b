package id

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// Golden: these texts and bytes are in people's links and in every journal.
func TestGolden(t *testing.T) {
	u := New(7, User, 0xabc, []byte("abcdefghijkl"))
	for _, c := range []struct{ name, got, want string }{
		{"user text", u.String(), "u003hnf31c9hp8sb6cxm6jtkbdg"},
		{"user bytes", hex.EncodeToString(u[:]), "00071abc6162636465666768696a6b6c"},
		{"direct", Direct(u, New(7, User, 1, []byte("zzzzzzzzzzzz"))).String(), "r003j6vep86zabfbt1c90bzkhy8"},
		{"group", Group(u, []byte("key")).String(), "r003jc14sfht3mvsm6bj9z7h2w0"},
	} {
		if c.got != c.want {
			t.Errorf("%s = %s, want %s", c.name, c.got, c.want)
		}
	}
	if got := LoginPartition("jimin"); got != 1148 {
		t.Errorf("LoginPartition(jimin) = %d, want 1148", got)
	}
}

func TestDirectIsSymmetric(t *testing.T) {
	a, b := New(1, User, 5, []byte("a")), New(1, User, 9, []byte("b"))
	if Direct(a, b) != Direct(b, a) || Direct(a, b) == Direct(a, a) {
		t.Fatal("direct room depends on who opens it, or two rooms are one")
	}
}

func TestPartsRoundTrip(t *testing.T) {
	i := New(65535, Device, 4095, bytes.Repeat([]byte{0xff}, 12))
	if i.Cell() != 65535 || i.Kind() != Device || i.Partition() != 4095 {
		t.Fatalf("parts: %d %d %d", i.Cell(), i.Kind(), i.Partition())
	}
	if p, err := Parse(Device, i.String()); err != nil || p != i {
		t.Fatalf("Parse(String) = %v, %v", p, err)
	}
	if p, err := FromBytes(Device, i.Bytes()); err != nil || p != i {
		t.Fatalf("FromBytes(Bytes) = %v, %v", p, err)
	}
	if _, err := FromBytes(User, i.Bytes()); err == nil {
		t.Fatal("a device passed for a user")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(New(7, User, 0xabc, []byte("abcdefghijkl")).String())
	f.Add("u")
	f.Add("u00000000000000000000000000")
	f.Fuzz(func(t *testing.T, text string) {
		i, err := Parse(User, text)
		if err == nil && i.String() != text {
			t.Fatalf("%q has two spellings: %q", text, i.String())
		}
	})
}
