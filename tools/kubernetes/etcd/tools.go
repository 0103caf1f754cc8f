//go:build tools

// Package tools names the programs that this module pins, so that `go mod` keeps what they need.
package tools

import (
	_ "go.etcd.io/etcd/server/v3"
)
