// Package web carries the built browser client inside the binary.
//
// `npm run build` in this folder fills dist; without it the embedded tree holds
// only a placeholder and the gateway has no pages to serve. The package holds
// no state, imports nothing of ours and serves nothing by itself: the gateway
// decides on headers and caching.
package web

import (
	"embed"
	"io/fs"
)

//go:embed all:dist
var dist embed.FS

// Files is the root of the built client: index.html, sw.js, assets/…. It is
// safe for concurrent use.
func Files() fs.FS {
	sub, err := fs.Sub(dist, "dist")
	if err != nil {
		// fs.Sub fails only for an invalid name, and "dist" is a constant.
		panic(err)
	}
	return sub
}
