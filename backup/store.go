package backup

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/bongsu-im/bongsu/internal/durable"
)

// Store is where an archive lies. Names are paths of lower-case words joined by
// slashes (see checkName). All methods may be called from any goroutine.
type Store interface {
	// Put makes an object durable: when it returns nil the object is there, whole,
	// and survives a power cut; whenever else it stops, the object is there whole
	// or not at all. An object of that name is replaced.
	Put(ctx context.Context, name string, data []byte) error
	// Get returns an object. The error is fs.ErrNotExist if there is none.
	Get(ctx context.Context, name string) ([]byte, error)
	// List calls fn for every object whose name begins with prefix, in the order
	// of names, until fn returns an error, which it returns. A store that has
	// never been written is empty.
	List(ctx context.Context, prefix string, fn func(Object) error) error
	// Delete removes an object; one that is not there is removed already.
	Delete(ctx context.Context, name string) error
	// String names the store for people, without secrets.
	String() string
}

// Object is an object in a Store.
type Object struct {
	Name  string
	Bytes int64
}

// MaxObjectBytes bounds one object, and what one unfolds to.
const MaxObjectBytes = 64 << 20

// Open returns the store that an address names: a folder, or
// s3://bucket/prefix with ?endpoint=https://host&region=name where it is not
// Amazon's. Nothing is made or asked before it is used.
func Open(address string, fs durable.FS) (Store, error) {
	if strings.HasPrefix(address, "s3://") {
		u, err := url.Parse(address)
		if err != nil {
			return nil, fmt.Errorf("the archive's address %q cannot be read: %w", address, err)
		}
		return openS3(u)
	}
	if address == "" || strings.Contains(address, "://") {
		return nil, fmt.Errorf("the archive's address %q is neither a folder nor like s3://bucket/prefix", address)
	}
	return NewFolder(fs, address), nil
}

var errName = errors.New("not a name of an object")

// checkName keeps names to what every store can hold and nobody can climb out of.
func checkName(name string) error {
	if name == "" || len(name) > 200 {
		return fmt.Errorf("%w: %q", errName, name)
	}
	for _, part := range strings.Split(name, "/") {
		if part == "" || part[0] == '.' {
			return fmt.Errorf("%w: %q", errName, name)
		}
		for _, c := range part {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
				return fmt.Errorf("%w: %q", errName, name)
			}
		}
	}
	return nil
}
