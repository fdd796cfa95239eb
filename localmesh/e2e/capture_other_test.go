//go:build !linux

package e2e

import (
	"bytes"
	"errors"
	"net/netip"
	"sync"
	"testing"
)

// capture is of Linux alone.
type capture struct {
	mu    sync.Mutex
	flows map[[2]netip.AddrPort]*bytes.Buffer
	err   error
}

func newCapture(t *testing.T, _ *meshUnder) *capture {
	t.Log("packets are not captured on this system; the link's tap is searched alone")
	return nil
}

func (*capture) lost() (uint32, error) { return 0, errors.ErrUnsupported }
