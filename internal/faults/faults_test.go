package faults

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/internal/durable"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text string
		want Set
		bad  bool
	}{
		{text: ""},
		{text: "# nothing\n\n"},
		{text: "fsync-error\nno-space\nlow-space\nslow-disk 20ms\nclock +1h\n", want: Set{true, true, true, 20 * time.Millisecond, time.Hour}},
		{text: "clock -1h", want: Set{Clock: -time.Hour}},
		{text: "slow-disk", bad: true},
		{text: "slow-disk -1s", bad: true},
		{text: "clock soon", bad: true},
		{text: "no-space please", bad: true},
		{text: "fire", bad: true},
	} {
		got, err := Parse(c.text)
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("%q: %+v, %v, want %+v", c.text, got, err, c.want)
		}
		if again, err := Parse(got.String()); err != nil || again != got {
			t.Errorf("%q: written and read again it is %+v, %v", c.text, again, err)
		}
	}
}

func TestPlayer(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "faults")
	set := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := New(name, slog.New(slog.DiscardHandler))
	write := func() error {
		return durable.WriteFile(p.Disk, filepath.Join(dir, "words"), []byte("x"), 0o600)
	}
	if err := write(); err != nil {
		t.Fatalf("without a file: %v", err)
	}
	set("fsync-error\nclock -1h\n")
	p.play()
	p.play() // a line that stands is not another fault
	if d := time.Until(p.Clock.Now()); d > -59*time.Minute {
		t.Errorf("the clock is wrong by %v", d)
	}
	if err := write(); !errors.Is(err, syscall.EIO) {
		t.Errorf("first fsync: %v", err)
	}
	if err := write(); err != nil {
		t.Errorf("second fsync: %v", err)
	}
	set("no-space\n")
	p.play()
	if err := write(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("without space: %v", err)
	}
	if d := time.Until(p.Clock.Now()).Abs(); d > time.Minute {
		t.Errorf("the clock is wrong by %v still", d)
	}
	set("nonsense\n")
	p.play()
	if err := write(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a file that cannot be understood changed something: %v", err)
	}
	set("fsync-error\n")
	p.play()
	if err := write(); !errors.Is(err, syscall.EIO) {
		t.Errorf("the line appeared again: %v", err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	p.play()
	if err := write(); err != nil {
		t.Errorf("the file is gone: %v", err)
	}
	met, err := ReadMet(name)
	if err != nil || met["fsync-error"] != 2 || met["no-space"] < 2 || met["clock"] != 1 || met["slow-disk"] != 0 {
		t.Errorf("met %v, %v", met, err)
	}
	if met, err := ReadMet(filepath.Join(dir, "none")); err != nil || len(met) != 0 {
		t.Errorf("nothing was met: %v, %v", met, err)
	}
}
