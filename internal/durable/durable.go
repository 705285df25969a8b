// Package durable is the door to the disk: the file system as an interface, so
// that a test can pull the plug on it.
package durable

import "github.com/cockroachdb/pebble/v2/vfs"

// FS is the file system that both stores and the marks file are written
// through. Pebble's is used because its crashable memory file system models
// what an fsync promises: data by file, names by directory.
type FS = vfs.FS

// Disk is the machine's file system.
var Disk FS = vfs.Default

// OnDisk tells whether fs is the machine's file system, or one that stands
// before it: there files have owners, permissions and locks.
func OnDisk(fs FS) bool { return vfs.Root(fs) == Disk }
