package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bongsu-im/bongsu/internal/durable"
)

// stores are all implementations; every test of the contract runs over each.
func stores(t *testing.T, test func(t *testing.T, s Store)) {
	t.Run("folder", func(t *testing.T) {
		test(t, NewFolder(durable.Disk, filepath.Join(t.TempDir(), "not", "made", "yet")))
	})
	t.Run("memory", func(t *testing.T) { test(t, NewFolder(durable.NewCrashable(), "archive")) })
	t.Run("s3", func(t *testing.T) {
		f, url := newFakeS3(t)
		s, err := Open("s3://beacons/some/prefix/?region=kr&endpoint="+url, durable.Disk)
		if err != nil {
			t.Fatal(err)
		}
		f.objects["some/other"] = []byte("a neighbour's")
		test(t, s)
		if f.unsigned > 0 {
			t.Errorf("%d requests were not signed", f.unsigned)
		}
		if string(f.objects["some/other"]) != "a neighbour's" {
			t.Error("an object outside of the prefix was touched")
		}
	})
}

func list(t *testing.T, s Store, prefix string) (names []string) {
	t.Helper()
	err := s.List(t.Context(), prefix, func(o Object) error {
		data, err := s.Get(t.Context(), o.Name)
		if err != nil || int64(len(data)) != o.Bytes {
			t.Errorf("%s is listed with %d bytes, has %d (%v)", o.Name, o.Bytes, len(data), err)
		}
		names = append(names, o.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func mustPut(t *testing.T, s Store, name string, data []byte) {
	t.Helper()
	// The file system in memory spoils what it is given, under the race detector.
	if err := s.Put(t.Context(), name, bytes.Clone(data)); err != nil {
		t.Fatal(err)
	}
}

func TestStore(t *testing.T) {
	stores(t, func(t *testing.T, s Store) {
		if names := list(t, s, ""); len(names) != 0 {
			t.Fatalf("a new store has %v", names)
		}
		if _, err := s.Get(t.Context(), "a/b"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("get of what is not there: %v", err)
		}
		if err := s.Delete(t.Context(), "a/b"); err != nil {
			t.Errorf("delete of what is not there: %v", err)
		}
		large := bytes.Repeat([]byte("beacon "), 1<<20)
		want := map[string][]byte{
			"a/shard-0001/2.x.age": []byte("two"), "a/shard-0001/1.x.age": {}, "a/manifest-1.age": large,
			"a-b": []byte("sorts before a/…"), "a.b": []byte("likewise"), "b/c": []byte("3"), "b/d": []byte("4"), "b/e/f": []byte("5"),
		}
		for name, data := range want {
			mustPut(t, s, name, data)
		}
		for name, data := range want {
			got, err := s.Get(t.Context(), name)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(data))
			}
		}
		for _, prefix := range []string{"", "a", "a/", "a/shard-0001/", "a/s", "b/", "b/e", "c", "a/shard-0001/1"} {
			var names []string
			for name := range want {
				if strings.HasPrefix(name, prefix) {
					names = append(names, name)
				}
			}
			slices.Sort(names)
			if got := list(t, s, prefix); !slices.Equal(got, names) {
				t.Errorf("list %q: %v, want %v", prefix, got, names)
			}
		}
		mustPut(t, s, "b/c", []byte("replaced"))
		if got, err := s.Get(t.Context(), "b/c"); err != nil || string(got) != "replaced" {
			t.Errorf("replaced: %q, %v", got, err)
		}
		if err := s.Delete(t.Context(), "b/c"); err != nil {
			t.Fatal(err)
		}
		if got := list(t, s, "b/"); !slices.Equal(got, []string{"b/d", "b/e/f"}) {
			t.Errorf("after a delete: %v", got)
		}
	})
}

func TestStoreStopsListing(t *testing.T) {
	stores(t, func(t *testing.T, s Store) {
		for i := range 10 {
			mustPut(t, s, fmt.Sprintf("x/%d", i), []byte("x"))
		}
		enough := errors.New("enough")
		n := 0
		err := s.List(t.Context(), "", func(Object) error {
			if n++; n == 4 {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) || n != 4 {
			t.Errorf("%d objects, %v", n, err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := errors.Join(s.Put(ended, "y", nil)); err == nil {
			t.Error("put with an ended context")
		}
		if err := s.List(ended, "", func(Object) error { return nil }); err == nil {
			t.Error("list with an ended context")
		}
	})
}

func TestStoreRefusesNames(t *testing.T) {
	stores(t, func(t *testing.T, s Store) {
		for _, name := range []string{"", "/a", "a/", "a//b", "../a", "a/../b", ".a", "A", "a b", "a\\b", strings.Repeat("x", 201)} {
			if err := s.Put(t.Context(), name, nil); !errors.Is(err, errName) {
				t.Errorf("put %q: %v", name, err)
			}
			if _, err := s.Get(t.Context(), name); !errors.Is(err, errName) {
				t.Errorf("get %q: %v", name, err)
			}
			if err := s.Delete(t.Context(), name); !errors.Is(err, errName) {
				t.Errorf("delete %q: %v", name, err)
			}
		}
	})
}

// What a put reports as done survives the power going out; what it does not
// report is there whole or not at all.
func TestFolderSurvivesACut(t *testing.T) {
	disk := durable.NewCrashable()
	s := NewFolder(disk, "far/away")
	mustPut(t, s, "a/one", []byte("first"))
	for seed := range uint64(20) {
		after := NewFolder(disk.Crash(float64(seed%3)/2, seed), "far/away")
		if got, err := after.Get(t.Context(), "a/one"); err != nil || string(got) != "first" {
			t.Fatalf("after the cut: %q, %v", got, err)
		}
	}
	// A file that a killed process left half written is no object.
	f, err := disk.Create("far/away/a/two.new", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if names := list(t, s, ""); !slices.Equal(names, []string{"a/one"}) {
		t.Errorf("listed %v", names)
	}
}

func TestFolderKeepsOthersOut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	mustPut(t, NewFolder(durable.Disk, dir), "a/b", []byte("x"))
	for name, want := range map[string]os.FileMode{"a": 0o700, "a/b": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
}

func TestS3Failures(t *testing.T) {
	f, url := newFakeS3(t)
	s, err := Open("s3://beacons/p?region=kr&endpoint="+url, durable.Disk)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "a", []byte("x"))
	// Busy stores are asked again by the client below us.
	n := 0
	f.fail = func(*http.Request) bool { n++; return n == 1 }
	if got, err := s.Get(t.Context(), "a"); err != nil || string(got) != "x" || n < 2 {
		t.Errorf("after one refusal: %q, %v in %d requests", got, err, n)
	}
	f.fail = nil
	other, err := Open("s3://another/p?region=kr&endpoint="+url, durable.Disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Put(t.Context(), "a", nil); err == nil || !strings.Contains(err.Error(), "s3://another/p/") {
		t.Errorf("a bucket that is not there: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, address := range []string{
		"", "http://host/x", "s3://", "s3://key:secret@bucket/x", "s3://bucket?endpoint=host", "s3://bucket?endpoint=ftp://host", "s3://bucket?color=red",
	} {
		if s, err := Open(address, durable.Disk); err == nil {
			t.Errorf("%q gives %v", address, s)
		}
	}
}
