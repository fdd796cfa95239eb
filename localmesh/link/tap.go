package link

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// A tap is a sequence of records: connection (8 bytes, big endian), direction (1), length (4), then that many bytes.
const (
	tapHeaderBytes = 13
	tapRecordMax   = deliveryMax + blockBytes
)

// tap copies delivered bytes to a file until it is full. A nil tap records nothing.
type tap struct {
	mu   sync.Mutex
	file *os.File
	left int64
	done bool
}

func openTap(path string, max int64) (*tap, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open tap: %w", err)
	}
	return &tap{file: f, left: max}, nil
}

// record appends one record, or, where it does not fit or cannot be written, ends the tap: a file with a gap would prove
// nothing.
func (t *tap) record(conn uint64, d Direction, bufs [][]byte) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done {
		return
	}
	payload := 0
	for _, b := range bufs {
		payload += len(b)
	}
	rec := make([]byte, tapHeaderBytes, tapHeaderBytes+payload)
	binary.BigEndian.PutUint64(rec, conn)
	rec[8] = byte(d)
	binary.BigEndian.PutUint32(rec[9:], uint32(payload))
	for _, b := range bufs {
		rec = append(rec, b...)
	}
	if int64(len(rec)) > t.left {
		t.done = true
		return
	}
	if _, err := t.file.Write(rec); err != nil {
		t.done = true
		return
	}
	t.left -= int64(len(rec))
}

func (t *tap) full() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.done
}

func (t *tap) close() error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done = true
	return t.file.Close()
}

// SearchTap returns how many bytes a tap holds and how many of its streams (one direction of one connection) contain the
// marker, which may lie across records. A test that finds none should also check that bytes and Stats.TapFull show that
// there was something to find. A record cut short at the end, of a link that is running or was killed, is ignored.
func SearchTap(r io.Reader, marker []byte) (streams int, bytesSeen int64, err error) {
	if len(marker) == 0 {
		return 0, 0, errors.New("search tap: empty marker")
	}
	type key struct {
		conn uint64
		dir  byte
	}
	found := map[key]bool{}
	tails := map[key][]byte{} // the last len(marker)-1 bytes of each stream
	in := bufio.NewReader(r)
	var header [tapHeaderBytes]byte
	for {
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return len(found), bytesSeen, tapEnd(err)
		}
		k := key{binary.BigEndian.Uint64(header[:]), header[8]}
		n := binary.BigEndian.Uint32(header[9:])
		if n > tapRecordMax || k.dir > byte(BtoA) {
			return len(found), bytesSeen, fmt.Errorf("search tap: after %d bytes: not a record", bytesSeen)
		}
		old := len(tails[k])
		text := append(tails[k], make([]byte, n)...)
		if _, err := io.ReadFull(in, text[old:]); err != nil {
			return len(found), bytesSeen, tapEnd(err)
		}
		bytesSeen += int64(n)
		if bytes.Contains(text, marker) {
			found[k] = true
		}
		tails[k] = append([]byte(nil), text[max(0, len(text)-len(marker)+1):]...)
	}
}

func tapEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return fmt.Errorf("search tap: %w", err)
}
