//go:build unix

package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// recorder is a connection that keeps what was written, call by call.
type recorder struct {
	net.Conn
	writes [][]byte
	err    error
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	r.writes = append(r.writes, bytes.Clone(p))
	return len(p), nil
}

// sealer writes a record for every 16 KiB, as crypto/tls does, and an alert of another goroutine's between.
type sealer struct {
	*batch
	alert []byte
}

func (s sealer) Write(p []byte) (n int, err error) {
	for n < len(p) {
		k, err := s.batch.Write(p[n:min(len(p), n+recordMax)])
		if n += k; err != nil {
			return n, err
		}
		if s.alert != nil {
			if _, err := s.batch.Write(s.alert); err != nil {
				return n, err
			}
			s.alert = nil
		}
	}
	return n, nil
}

// TestRecordsShareAWrite in order, whoever made them, and no write is larger than a batch or waits for another.
func TestRecordsShareAWrite(t *testing.T) {
	data := make([]byte, 5*recordMax+3)
	for i := range data {
		data[i] = byte(i >> 9)
	}
	for _, c := range []struct {
		n, writes int
		alert     []byte
	}{{n: 10, writes: 1}, {n: recordMax, writes: 1}, {n: 4 * recordMax, writes: 1}, {n: len(data), writes: 2}, {n: 3 * recordMax, writes: 1, alert: []byte("alert")}} {
		r := &recorder{}
		b := &batch{Conn: r}
		n, err := batched(b, sealer{b, c.alert}, data[:c.n])
		want := bytes.Clone(data[:c.n])
		if c.alert != nil {
			want = append(append(bytes.Clone(data[:recordMax]), c.alert...), data[recordMax:c.n]...)
		}
		if got := bytes.Join(r.writes, nil); n != c.n || err != nil || len(r.writes) != c.writes || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d, %v; %d writes, want %d; whole: %v", c.n, n, err, len(r.writes), c.writes, bytes.Equal(got, want))
		}
		if b.held || b.out != nil {
			t.Errorf("%d bytes: something is held afterwards", c.n)
		}
	}
}

// TestAWriteThatFailsLateIsTold: what was held had been taken for written.
func TestAWriteThatFailsLateIsTold(t *testing.T) {
	broken := errors.New("broken")
	b := &batch{Conn: &recorder{err: broken}}
	if n, err := batched(b, sealer{batch: b}, make([]byte, 2*recordMax)); n != 0 || !errors.Is(err, broken) {
		t.Errorf("%d, %v", n, err)
	}
	if b.held || b.out != nil {
		t.Error("something is held afterwards")
	}
}

// TestRecordsShareARead: bulk comes through whole, in few reads, its end behind it, and who waits holds nothing.
func TestRecordsShareARead(t *testing.T) {
	from, to := pairOf(t)
	_ = to.SetDeadline(time.Now().Add(20 * time.Second))
	b := newBatch(to)
	reads := 0
	try := b.try
	waiting := make(chan bool, 1)
	b.try = func(fd uintptr) bool {
		done := try(fd)
		if done {
			reads++
		} else {
			select {
			case waiting <- b.in != nil:
			default:
			}
		}
		return done
	}
	sent := make([]byte, 8<<20+5)
	for i := range sent {
		sent[i] = byte(i * i >> 8)
	}
	go func() {
		_, _ = from.Write(sent)
	}()
	got := make([]byte, 0, len(sent))
	calls := 0
	for p := make([]byte, recordMax+517); len(got) < len(sent); calls++ { // what crypto/tls has room for
		n, err := b.Read(p[:min(len(p), len(sent)-len(got))])
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p[:n]...)
	}
	if !bytes.Equal(got, sent) || reads == 0 {
		t.Errorf("%d bytes of %d, %d reads of batches", len(got), len(sent), reads)
	}
	if b.in != nil {
		t.Error("a buffer is held when all was read")
	}
	b.more = true // as after a full record
	ended := make(chan error, 1)
	go func() {
		_, err := b.Read(make([]byte, 1))
		ended <- err
	}()
	if <-waiting {
		t.Error("it waits and holds a buffer")
	}
	_ = from.Close()
	if err := <-ended; err != io.EOF || b.in != nil {
		t.Errorf("at the end: %v, holding %v", err, b.in != nil)
	}
	t.Logf("%d calls, %d reads of batches", calls, reads)
}
