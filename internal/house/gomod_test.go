package house

import (
	"os"
	"strings"
	"testing"
)

func TestGoModReplacesNothing(t *testing.T) {
	for _, file := range []string{"../../go.mod", "../../tools/go.mod", "../../deploy/lint/go.mod"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(b), "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "replace ") {
				t.Errorf("%s: %q: a replaced module is not what others get", file, line)
			}
		}
	}
}
