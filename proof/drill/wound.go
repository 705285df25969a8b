package drill

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// wound damages files in the folder of a stopped node, and says what it did.

// filesIn lists the files of a store that have content, in order, without what
// is no part of it (locks).
func filesIn(dir string, wanted func(name string) bool) (files []string, err error) {
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "LOCK" || !wanted(d.Name()) {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > 0 && info.Mode().IsRegular() {
			files = append(files, name)
		}
		return err
	})
	slices.Sort(files)
	return files, err
}

func anyFile(string) bool                   { return true }
func logFile(name string) bool              { return strings.HasSuffix(name, ".log") }
func marksFile(name string) bool            { return strings.HasPrefix(name, "marks.") }
func tableFile(name string) bool            { return strings.HasSuffix(name, ".sst") }
func (n *cellNode) under(sub string) string { return filepath.Join(n.data(), sub) }

var errNothingToDamage = errors.New("there is no file to damage")

// tearTail cuts some bytes off the newest log file of the journal, as a crash
// may that the disk was not honest about.
func (n *cellNode) tearTail(rng *rand.Rand) (string, error) {
	files, err := filesIn(n.under("journal"), logFile)
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", errNothingToDamage
	}
	newest := files[len(files)-1]
	size, err := lastByte(newest)
	if err != nil || size == 0 {
		return "", errors.Join(err, errNothingToDamage)
	}
	cut := 1 + rng.Int64N(min(size, 4096))
	if err := os.Truncate(newest, size-cut); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s ends %d bytes early", filepath.Base(newest), cut), nil
}

// lastByte is where a file ends, not counting zeros that were written ahead.
func lastByte(name string) (int64, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return int64(len(b)), nil
}

// flip turns one bit of a file of a store.
func (n *cellNode) flip(rng *rand.Rand, store string, wanted func(string) bool) (string, error) {
	name, b, err := n.pick(rng, store, wanted)
	if err != nil {
		return "", err
	}
	at := rng.IntN(len(b))
	b[at] ^= 1 << rng.IntN(8)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return "", err
	}
	return fmt.Sprintf("one bit of %s at %d of %d", filepath.Base(name), at, len(b)), nil
}

// truncate ends a file of a store early.
func (n *cellNode) truncate(rng *rand.Rand, store string, wanted func(string) bool) (string, error) {
	name, b, err := n.pick(rng, store, wanted)
	if err != nil {
		return "", err
	}
	at := rng.IntN(len(b))
	if err := os.Truncate(name, int64(at)); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s ends at %d of %d", filepath.Base(name), at, len(b)), nil
}

func (n *cellNode) pick(rng *rand.Rand, store string, wanted func(string) bool) (name string, content []byte, err error) {
	files, err := filesIn(n.under(store), wanted)
	if err != nil {
		return "", nil, err
	}
	rng.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	for _, name := range files {
		size, err := lastByte(name) // what was only set aside cannot be hurt
		if err != nil {
			return "", nil, err
		}
		if size > 0 {
			b, err := os.ReadFile(name)
			return name, b[:size], err
		}
	}
	return "", nil, errNothingToDamage
}

// hurtView damages a table or the whole of the view.
func (n *cellNode) hurtView(rng *rand.Rand) (string, error) {
	said, err := "", error(nil)
	switch rng.IntN(3) {
	case 0:
		said, err = n.flip(rng, "view", anyFile)
	case 1:
		said, err = n.truncate(rng, "view", tableFile)
	}
	if said == "" || errors.Is(err, errNothingToDamage) {
		return "the view is gone", os.RemoveAll(n.under("view"))
	}
	return said, err
}

// hurtMetadata damages or deletes one of the small files that say who a node is
// and what it has had.
func (n *cellNode) hurtMetadata(rng *rand.Rand) (string, error) {
	candidates := []string{}
	for _, name := range []string{"node.json", "cluster.json"} {
		if _, err := os.Stat(n.under(name)); err == nil {
			candidates = append(candidates, n.under(name))
		}
	}
	marks, err := filesIn(n.under("journal"), marksFile)
	if err != nil {
		return "", err
	}
	if len(marks) > 0 {
		candidates = append(candidates, marks[0])
	}
	if len(candidates) == 0 {
		return "", errNothingToDamage
	}
	name := candidates[rng.IntN(len(candidates))]
	all := []string{name}
	if marksFile(filepath.Base(name)) {
		all = marks // one copy would be made good by the other
	}
	kind := rng.IntN(3)
	for _, name := range all {
		b, err := os.ReadFile(name)
		if err == nil {
			switch {
			case kind == 0:
				err = os.Remove(name)
			case kind == 1 || len(b) == 0:
				err = os.Truncate(name, int64(len(b)/2))
			default:
				b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
				err = os.WriteFile(name, b, 0o600)
			}
		}
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%s %s", filepath.Base(name), []string{"is gone", "is cut in half", "has a flipped bit"}[kind]), nil
}
