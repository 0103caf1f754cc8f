//go:build tools

// Package tools names the program that is built from this module, so that its go.mod pins it.
package tools

import _ "sigs.k8s.io/kwok/cmd/kwok"
