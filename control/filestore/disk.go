package filestore

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/trust"
)

// Purposes of the two files: one cannot stand in for the other.
const (
	purposeWhole = "objects"
	purposeLog   = "objects log"
)

// recordMax bounds one record of the log: a batch of store.CheckOps in base64, sealed.
const recordMax = 4 << 20

// record is one write, or, in the sealed file, the whole state.
type record struct {
	Epoch    string         `json:"epoch"`
	Revision int64          `json:"revision"`
	Puts     []store.Object `json:"puts,omitempty"`
	Deletes  []store.Key    `json:"deletes,omitempty"`
}

func (s *Store) sealed() *trust.SealedFile {
	return &trust.SealedFile{Path: s.cfg.Path, Key: s.cfg.Key, Purpose: purposeWhole}
}

func (s *Store) logPath() string { return s.cfg.Path + ".log" }

// load reads the whole state and what was written since. The log before the last one is kept with the whole state
// before the last one: if the newer is damaged, the older two and the log lose nothing.
func (s *Store) load() error {
	if err := os.MkdirAll(filepath.Dir(s.cfg.Path), 0o700); err != nil {
		return err
	}
	fresh := false
	whole, err := s.sealed().Read()
	var sealed *trust.SealError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fresh = true
	case errors.As(err, &sealed):
		return fmt.Errorf("%w: restore the file from a backup, or remove it and its .log to begin with nothing and apply the objects again", err)
	case err != nil:
		return err
	}
	if whole.FellBack != nil {
		s.cfg.Log.Warn("the newest file of objects is damaged; the one before is used", "path", s.cfg.Path, "error", whole.FellBack)
	}
	if !fresh {
		var r record
		if err := json.Unmarshal(whole.Payload, &r); err != nil {
			return fmt.Errorf("read %s: %w", s.cfg.Path, err)
		}
		s.at = store.Position{Epoch: r.Epoch, Revision: r.Revision}
		for _, o := range r.Puts {
			s.objects[o.Key] = o
		}
		s.floor, s.written = r.Revision, int64(len(whole.Payload))
	}
	if fresh {
		if info, err := os.Stat(s.logPath()); err == nil && info.Size() > 0 {
			return fmt.Errorf("there is a log and no state that it continues: restore %s from a backup, or remove the log to begin with nothing and apply the objects again", s.cfg.Path)
		}
		s.begin()
		return s.compact(context.Background())
	}
	previous := s.logPath() + ".prev"
	damage := errors.Join(s.replay(previous), s.replay(s.logPath()))
	if damage == nil {
		return s.openLog(0)
	}
	s.cfg.Log.Error("what was written last is damaged: what is left begins another history", "path", s.logPath(), "revision", s.at.Revision, "error", damage)
	s.begin()
	if err := s.compact(context.Background()); err != nil {
		return err
	}
	return os.Remove(previous) // it would be found damaged again
}

// openLog opens the log for appending.
func (s *Store) openLog(how int) error {
	f, err := os.OpenFile(s.logPath(), os.O_WRONLY|os.O_CREATE|how, 0o600)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if s.log != nil {
		_ = s.log.Close() // all of it was synced
	}
	s.log, s.logSize = f, size
	return nil
}

// replay takes the records of a log that the state lacks. A record that is not whole was never acknowledged and is
// cut off; any other damage is an error.
func (s *Store) replay(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	for good := int64(0); ; {
		var length [4]byte
		_, err := io.ReadFull(in, length[:])
		if err == io.EOF {
			return nil
		}
		n := binary.BigEndian.Uint32(length[:])
		if err == nil && n > recordMax {
			return fmt.Errorf("%s at byte %d: a record of %d bytes", path, good, n)
		}
		b := make([]byte, n)
		if err == nil {
			_, err = io.ReadFull(in, b)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return os.Truncate(path, good)
		}
		if err != nil {
			return err
		}
		if err := s.read(b); err != nil {
			return fmt.Errorf("%s at byte %d: %w", path, good, err)
		}
		good += int64(len(length)) + int64(n)
	}
}

// read takes one record of a log.
func (s *Store) read(b []byte) error {
	sealed, err := trust.Unseal(s.cfg.Key, purposeLog, b)
	if err != nil {
		return err
	}
	var r record
	if err := json.Unmarshal(sealed.Payload, &r); err != nil {
		return err
	}
	switch {
	case sealed.Generation != uint64(r.Revision):
		return fmt.Errorf("a record of revision %d bears the number %d", r.Revision, sealed.Generation)
	case r.Epoch == s.at.Epoch && r.Revision <= s.at.Revision:
		return nil // it is in the whole state
	case r.Epoch != s.at.Epoch:
		if s.at.Epoch != "" && r.Revision <= s.at.Revision {
			return nil // of the history before
		}
		return fmt.Errorf("a record of epoch %q after one of %q", r.Epoch, s.at.Epoch)
	case r.Revision != s.at.Revision+1:
		return fmt.Errorf("revision %d follows %d: something is missing", r.Revision, s.at.Revision)
	}
	s.take(r)
	return nil
}

// append puts a record at the end of the log, on the disk. What failed is cut off again.
func (s *Store) append(ctx context.Context, r record) error {
	s.mu.RLock()
	closed := s.closed
	s.mu.RUnlock()
	if closed {
		return errors.New("it is closed")
	}
	payload, err := json.Marshal(r)
	if err != nil {
		return err
	}
	b, err := trust.Seal(s.cfg.Key, purposeLog, trust.Sealed{Generation: uint64(r.Revision), Created: s.cfg.Clock.Now(), Payload: payload})
	if err != nil {
		return err
	}
	if err := s.cfg.Failpoints.Hit(ctx, PointAppend); err != nil {
		return err
	}
	frame := append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...)
	_, err = s.log.WriteAt(frame, s.logSize)
	if err == nil {
		err = s.cfg.Failpoints.Hit(ctx, PointSync)
	}
	if err == nil {
		err = s.log.Sync()
	}
	if err != nil {
		return errors.Join(err, s.log.Truncate(s.logSize))
	}
	s.logSize += int64(len(frame))
	return nil
}

// compact writes the whole state and begins a new log; the old one is kept until the next time. At whatever
// moment it is interrupted, what is there holds everything.
func (s *Store) compact(ctx context.Context) error {
	r := record{Epoch: s.at.Epoch, Revision: s.at.Revision}
	var err error
	if r.Puts, _, err = s.List(ctx, store.Scope{}); err != nil {
		return err
	}
	payload, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := s.sealed().Write(payload, 0, s.cfg.Clock.Now()); err != nil {
		return err
	}
	s.written = int64(len(payload))
	if err := s.cfg.Failpoints.Hit(ctx, PointCompact); err != nil {
		return err
	}
	if err := os.Rename(s.logPath(), s.logPath()+".prev"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.openLog(os.O_TRUNC)
}
