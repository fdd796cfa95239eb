package trust

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/failpoint"
)

// SealKeyBytes is the length of a seal key.
const SealKeyBytes = 32

// SealKey seals files. A process gets it from whoever starts it and never stores
// it: a stolen disk opens nothing. It cannot be printed.
type SealKey struct{ Secret }

// NewSealKey makes a random seal key.
func NewSealKey() SealKey { return SealKey{RandomSecret(SealKeyBytes)} }

// ParseSealKey takes a copy of the SealKeyBytes bytes of b.
func ParseSealKey(b []byte) (SealKey, error) {
	if len(b) != SealKeyBytes {
		return SealKey{}, fmt.Errorf("seal key: %d bytes, want %d", len(b), SealKeyBytes)
	}
	return SealKey{NewSecret(b)}, nil
}

// sealKeyWait is how long SealKeyFromFD waits for a parent that opened a pipe and
// writes nothing.
const sealKeyWait = 10 * time.Second

// SealKeyFromFD reads a seal key from an inherited descriptor, a pipe as a rule,
// and closes it: exactly SealKeyBytes bytes and then the end. It waits 10 s at
// most.
func SealKeyFromFD(fd int) (SealKey, error) {
	// A pipe only has deadlines when it does not block. A regular file has none and
	// needs none.
	_ = syscall.SetNonblock(fd, true)
	f := os.NewFile(uintptr(fd), "seal key")
	if f == nil {
		return SealKey{}, fmt.Errorf("seal key: read descriptor %d: not a descriptor", fd)
	}
	defer f.Close()
	if err := f.SetReadDeadline(time.Now().Add(sealKeyWait)); err != nil && !errors.Is(err, os.ErrNoDeadline) {
		return SealKey{}, fmt.Errorf("seal key: read descriptor %d: %w", fd, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, SealKeyBytes+1))
	if err != nil {
		return SealKey{}, fmt.Errorf("seal key: read descriptor %d: %w", fd, err)
	}
	return ParseSealKey(b)
}

// SealFault says why a sealed file was not believed.
type SealFault string

// The faults of sealed files.
const (
	SealMissing   SealFault = "missing"
	SealUnread    SealFault = "unreadable"         // the operating system refused
	SealForeign   SealFault = "not_a_sealed_file"  // of this purpose
	SealVersion   SealFault = "unknown_version"    // newer than this program
	SealTruncated SealFault = "truncated"          // or followed by something
	SealKeyWrong  SealFault = "other_seal_key"     // sealed by a key that is not ours
	SealCorrupt   SealFault = "corrupt"            // authentication fails
	SealContent   SealFault = "unreadable_content" // authentic, but not what this program writes
	SealAge       SealFault = "too_old"            // or from the future
)

// SealError is why a sealed file was not believed.
type SealError struct {
	Path  string
	Fault SealFault
	Err   error // the cause, or nil
}

func (e *SealError) Error() string {
	s := "read sealed file " + e.Path + ": " + string(e.Fault)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap is the cause.
func (e *SealError) Unwrap() error { return e.Err }

// The layout of a sealed file, integers big-endian:
//
//	magic 8 | version 2 | key check 8 | salt 32 | nonce 12 | generation 8 | created 8 | length 8 | ciphertext | tag 16
//
// Everything before the ciphertext is the header; it is the additional data of
// AES-256-GCM (SP 800-38D), so that no byte of the file is without protection. The
// file key is HKDF-SHA256 (RFC 5869) of the seal key with the file's own salt, so
// that random nonces never meet under one key however many files are written.
const (
	sealMagic   = "isthseal"
	sealVersion = 1
	sealHeader  = 8 + 2 + 8 + 32 + 12 + 8 + 8 + 8
	sealTag     = 16
	sealSizeMax = 256 << 20
)

// Sealed is the content of a sealed file.
type Sealed struct {
	// Generation grows strictly with each write of one file.
	Generation uint64
	Created    time.Time // in milliseconds
	Payload    []byte
	// FellBack says why the newest file was not used and the previous one was; nil if
	// the newest was.
	FellBack error
}

// Seal returns s in the layout of a sealed file: for what is appended to one.
func Seal(key SealKey, purpose string, s Sealed) ([]byte, error) { return seal(key, purpose, s) }

// Unseal is the inverse of Seal; the error is a *SealError without a path.
func Unseal(key SealKey, purpose string, b []byte) (Sealed, error) {
	s, fault := unseal(key, purpose, b)
	if fault != "" {
		return Sealed{}, &SealError{Fault: fault}
	}
	return s, nil
}

// seal returns the bytes of a file.
func seal(key SealKey, purpose string, s Sealed) ([]byte, error) {
	header := make([]byte, 0, sealHeader+len(s.Payload)+sealTag)
	header = append(header, sealMagic...)
	header = binary.BigEndian.AppendUint16(header, sealVersion)
	check, err := keyCheck(key, purpose)
	if err != nil {
		return nil, err
	}
	header = append(header, check...)
	var random [32 + 12]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	header = append(header, random[:]...)
	header = binary.BigEndian.AppendUint64(header, s.Generation)
	header = binary.BigEndian.AppendUint64(header, uint64(s.Created.UnixMilli()))
	header = binary.BigEndian.AppendUint64(header, uint64(len(s.Payload)))
	aead, err := fileCipher(key, purpose, random[:32])
	if err != nil {
		return nil, err
	}
	return aead.Seal(header, random[32:], s.Payload, header), nil
}

// unseal is the inverse of seal; any other byte anywhere is an error.
func unseal(key SealKey, purpose string, file []byte) (Sealed, SealFault) {
	if len(file) < len(sealMagic) || string(file[:len(sealMagic)]) != sealMagic {
		return Sealed{}, SealForeign
	}
	if len(file) < sealHeader+sealTag {
		return Sealed{}, SealTruncated
	}
	header, rest := file[:sealHeader], file[len(sealMagic):]
	if binary.BigEndian.Uint16(rest) != sealVersion {
		return Sealed{}, SealVersion
	}
	check, salt, nonce := rest[2:10], rest[10:42], rest[42:54]
	generation, created, length := rest[54:], rest[62:], rest[70:]
	if binary.BigEndian.Uint64(length) != uint64(len(file)-sealHeader-sealTag) {
		return Sealed{}, SealTruncated
	}
	want, err := keyCheck(key, purpose)
	if err != nil || string(check) != string(want) {
		return Sealed{}, SealKeyWrong
	}
	aead, err := fileCipher(key, purpose, salt)
	if err != nil {
		return Sealed{}, SealKeyWrong
	}
	payload, err := aead.Open(nil, nonce, file[sealHeader:], header)
	if err != nil {
		return Sealed{}, SealCorrupt
	}
	return Sealed{
		Generation: binary.BigEndian.Uint64(generation),
		Created:    time.UnixMilli(int64(binary.BigEndian.Uint64(created))),
		Payload:    payload,
	}, ""
}

// keyCheck tells apart a wrong key from a damaged file, for people: 64 bits
// derived one way from the key.
func keyCheck(key SealKey, purpose string) ([]byte, error) {
	return derive(key, nil, "isthmus seal check: "+purpose, 8)
}

func fileCipher(key SealKey, purpose string, salt []byte) (cipher.AEAD, error) {
	k, err := derive(key, salt, "isthmus seal: "+purpose, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func derive(key SealKey, salt []byte, info string, n int) ([]byte, error) {
	if len(key.Reveal()) != SealKeyBytes {
		return nil, errors.New("no seal key")
	}
	return hkdf.Key(sha256.New, key.Reveal(), salt, info, n)
}

// The points at which a test may fail SealedFile.Write, in their order.
const (
	PointSealWrite   failpoint.Point = "trust.seal.write"
	PointSealSync    failpoint.Point = "trust.seal.sync"
	PointSealKeep    failpoint.Point = "trust.seal.keep"
	PointSealReplace failpoint.Point = "trust.seal.replace"
	PointSealDirSync failpoint.Point = "trust.seal.dirsync"
)

// SealPoints are all of them.
func SealPoints() []failpoint.Point {
	return []failpoint.Point{PointSealWrite, PointSealSync, PointSealKeep, PointSealReplace, PointSealDirSync}
}

// SealedFile is one secret file and, beside it under the name Path+".prev", the
// one it replaced. One process writes it, one Write at a time; a process killed at
// any moment, and a full disk, leave a file that reads.
type SealedFile struct {
	Path string
	Key  SealKey
	// Purpose separates the keys of files of different kinds.
	Purpose string
	// Points is for tests; nil is off.
	Points *failpoint.Set
}

// Read returns the newest content that is authentic: of Path, or of the previous
// file if Path is missing or damaged. If neither is, the error is the *SealError
// of Path; if neither exists, it is also fs.ErrNotExist.
func (f *SealedFile) Read() (Sealed, error) {
	s, err := f.open(f.Path)
	if err == nil {
		return s, nil
	}
	prev, prevErr := f.open(f.previous())
	if prevErr == nil {
		prev.FellBack = err
		return prev, nil
	}
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(prevErr, fs.ErrNotExist) {
		return Sealed{}, prevErr
	}
	return Sealed{}, err
}

// Write puts payload in the place of Path and returns its generation: one more
// than any on disk, and at least floor. On an error what Read returned before it
// still returns, except that a failure of the last step, syncing the directory,
// may leave the new content.
func (f *SealedFile) Write(payload []byte, floor uint64, now time.Time) (generation uint64, err error) {
	if len(payload) > sealSizeMax {
		return 0, fmt.Errorf("write sealed file %s: %d bytes, want at most %d", f.Path, len(payload), sealSizeMax)
	}
	generation = max(floor, 1)
	current, currentErr := f.open(f.Path)
	for _, s := range []func() (Sealed, error){
		func() (Sealed, error) { return current, currentErr },
		func() (Sealed, error) { return f.open(f.previous()) },
	} {
		if known, err := s(); err == nil {
			generation = max(generation, known.Generation+1)
		}
	}
	data, err := seal(f.Key, f.Purpose, Sealed{Generation: generation, Created: now, Payload: payload})
	if err != nil {
		return 0, fmt.Errorf("write sealed file %s: %w", f.Path, err)
	}
	// A damaged file is not kept: it would push out the good one before it.
	if err := f.replace(data, currentErr == nil); err != nil {
		return 0, fmt.Errorf("write sealed file %s: %w", f.Path, err)
	}
	return generation, nil
}

func (f *SealedFile) previous() string { return f.Path + ".prev" }

func (f *SealedFile) open(path string) (Sealed, error) {
	data, err := readFile(path)
	if err != nil {
		fault := SealUnread
		if errors.Is(err, fs.ErrNotExist) {
			fault = SealMissing
		}
		return Sealed{}, &SealError{path, fault, err}
	}
	s, fault := unseal(f.Key, f.Purpose, data)
	if fault != "" {
		return Sealed{}, &SealError{path, fault, nil}
	}
	return s, nil
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	const most = sealSizeMax + sealHeader + sealTag
	data, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("more than %d bytes", most)
	}
	return data, err
}

// replace makes data the content of Path: temporary file, fsync, keep the old one
// by a second link, rename over it, fsync the directory. Path exists throughout.
func (f *SealedFile) replace(data []byte, keep bool) (err error) {
	tmp, kept := f.Path+".tmp", f.Path+".keep"
	defer func() {
		if err != nil {
			_ = os.Remove(tmp)
			_ = os.Remove(kept)
		}
	}()
	if err := f.writeTemporary(tmp, data); err != nil {
		return err
	}
	if err := f.hit(PointSealKeep); err != nil {
		return err
	}
	if keep {
		_ = os.Remove(kept) // left by a process killed here
		if err := os.Link(f.Path, kept); err != nil {
			return err
		}
		if err := os.Rename(kept, f.previous()); err != nil {
			return err
		}
	}
	if err := f.hit(PointSealReplace); err != nil {
		return err
	}
	if err := os.Rename(tmp, f.Path); err != nil {
		return err
	}
	if err := f.hit(PointSealDirSync); err != nil {
		return err
	}
	return syncDir(filepath.Dir(f.Path))
}

func (f *SealedFile) writeTemporary(tmp string, data []byte) error {
	// Made anew each time, so that neither a link planted there nor the mode of a
	// left-over decides where the bytes go and who reads them.
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := f.hit(PointSealWrite); err != nil {
		return err
	}
	if _, err := file.Write(data); err != nil {
		return err
	}
	if err := f.hit(PointSealSync); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	return file.Close()
}

func (f *SealedFile) hit(p failpoint.Point) error {
	return f.Points.Hit(context.Background(), p)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
