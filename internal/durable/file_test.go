package durable

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A power cut keeps what WriteFile reported as written, name and all.
func TestWriteFileSurvivesACut(t *testing.T) {
	fs := vfs.NewCrashableMem()
	if err := MkdirAll(fs, "d", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(fs, "d/a"); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("missing file: %v", err)
	}
	for _, want := range []string{"one", "the second, longer", ""} {
		if err := WriteFile(fs, "d/a", []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		after := fs.CrashClone(vfs.CrashCloneCfg{})
		got, err := ReadFile(after, "d/a")
		if err != nil || !bytes.Equal(got, []byte(want)) {
			t.Fatalf("after the cut: %q, %v; want %q", got, err, want)
		}
	}
}

// A new folder's name must be as durable as what is fsynced inside it: the
// first power drill lost a whole data folder without this.
func TestMkdirAllSurvivesACut(t *testing.T) {
	fs := vfs.NewCrashableMem()
	if err := MkdirAll(fs, "a/b/c", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(fs, "a/b/c/f", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFile(fs.CrashClone(vfs.CrashCloneCfg{}), "a/b/c/f"); err != nil || string(got) != "x" {
		t.Fatalf("after the cut: %q, %v", got, err)
	}
}
