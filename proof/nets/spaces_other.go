//go:build !linux

package nets

import "errors"

// Supported tells why namespaces cannot be had here.
func Supported() error { return errors.New("network namespaces are Linux's") }

// Spaces joins places in namespaces, which only Linux has.
func Spaces(int, ...[2]int) (*Network, error) { return nil, Supported() }
