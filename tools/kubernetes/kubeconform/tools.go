//go:build tools

// Package tools names the program that is built from this module, so that its go.mod pins it.
package tools

import _ "github.com/yannh/kubeconform/cmd/kubeconform"
