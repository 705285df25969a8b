package lint

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// hasGo tells whether a folder of the repository holds Go code.
func hasGo(dir string) (found bool, err error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return false, err
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			found = true
			return fs.SkipAll
		}
		return nil
	})
	if errors.Is(err, fs.SkipAll) {
		err = nil
	}
	return found, err
}
