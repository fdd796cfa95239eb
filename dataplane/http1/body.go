//house:exempt the chunked decoder is a state machine

package http1

import (
	"bytes"
	"io"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// Limits of the chunked coding that no configuration needs to change, in bytes.
const (
	chunkLineMax       = 1 << 10  // a chunk's size line with extensions
	chunkExtensionsMax = 16 << 10 // all extensions of one body: they are pure overhead
)

// body is where a message's body stands.
type body struct {
	framing    framing
	remaining  int64 // of framingLength or of the current chunk
	state      chunkState
	extensions int      // bytes of chunk extensions so far
	scan       headScan // of the trailer section
	done       bool
	trailer    *message.Head // where trailers go; lent with the connection's heads
}

type chunkState uint8

const (
	chunkSize    chunkState = iota // before a size line
	chunkData                      // in data
	chunkDataEnd                   // before the CRLF after data
	chunkTrailer                   // after the last chunk
)

// start begins a body.
func (in *input) startBody(fr framing, length int64) {
	in.body = body{framing: fr, remaining: length, trailer: in.body.trailer}
	in.body.done = fr == framingNone || fr == framingLength && length == 0
	in.drips = 0
}

// read reads the body. It returns io.EOF with the last bytes
// when the end is known, which spares the caller a call and, corked, a write.
func (in *input) read(p []byte) (int, error) {
	b := &in.body
	if b.done {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	switch b.framing {
	case framingLength:
		n, err := in.readSome(p[:min(int64(len(p)), b.remaining)])
		b.remaining -= int64(n)
		if err != nil {
			return n, errBroken(err)
		}
		if b.remaining == 0 {
			b.done = true
			return n, io.EOF
		}
		return n, nil
	case framingChunked:
		return in.readChunked(p)
	default: // framingClose, framingTunnel
		n, err := in.readSome(p)
		if err == io.EOF {
			b.done = true
		}
		return n, err
	}
}

// directMin is the size in bytes from which reading past the buffer saves more in
// copying than the buffer saves in calls.
const directMin = 4 << 10

// readSome takes what is buffered, or else reads.
func (in *input) readSome(p []byte) (int, error) {
	if len(in.buffered()) == 0 {
		if len(p) >= directMin || in.body.framing != framingLength || in.raw == nil {
			return in.readDirect(p)
		}
		if err := in.fillBody(); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.buffered())
	in.advance(n)
	return n, nil
}

// readChunked decodes RFC 9112 §7.1. It goes on while bytes are buffered, and blocks only
// if it has none to return.
func (in *input) readChunked(p []byte) (n int, err error) {
	b := &in.body
	for {
		buf := in.buffered()
		switch b.state {
		case chunkData:
			if n == len(p) {
				return n, nil
			}
			if len(buf) == 0 {
				if n > 0 {
					return n, nil
				}
				if b.remaining >= bufferSize && len(p) >= directMin {
					n, err = in.readDirect(p[:min(int64(len(p)), b.remaining)])
					b.took(n)
					if err != nil {
						err = errBroken(err)
					}
					return n, err
				}
				break // fill
			}
			m := copy(p[n:], buf[:min(int64(len(buf)), b.remaining)])
			in.advance(m)
			b.took(m)
			n += m
			continue
		default:
			used, perr := in.chunkStep(buf)
			if perr != nil {
				in.failed = perr
				return n, perr
			}
			if b.done {
				in.advance(used)
				return n, io.EOF
			}
			if used > 0 {
				in.advance(used)
				continue
			}
		}
		if n > 0 {
			return n, nil
		}
		if err := in.fillBody(); err != nil {
			return 0, errBroken(err)
		}
	}
}

func (b *body) took(n int) {
	if b.remaining -= int64(n); b.remaining == 0 {
		b.state = chunkDataEnd
	}
}

// chunkStep reads one piece of framing from buf and returns how long it was, or 0 if it
// is not whole yet.
func (in *input) chunkStep(buf []byte) (used int, perr *ParseError) {
	b := &in.body
	switch b.state {
	case chunkSize:
		i := bytes.IndexByte(buf, '\n')
		if i < 0 && len(buf) < chunkLineMax {
			return 0, nil
		}
		if i < 0 || i >= chunkLineMax {
			return 0, refuse(400, "chunk size line too long")
		}
		size, extensions, perr := parseChunkSize(buf[:i+1])
		if perr != nil {
			return 0, perr
		}
		if b.extensions += extensions; b.extensions > chunkExtensionsMax {
			return 0, refuse(400, "too many chunk extensions")
		}
		b.remaining, b.state = size, chunkData
		if size == 0 {
			b.state = chunkTrailer
		}
		return i + 1, nil
	case chunkDataEnd:
		if len(buf) > 0 && buf[0] != '\r' || len(buf) > 1 && buf[1] != '\n' {
			return 0, malformed("chunk longer than its size")
		}
		if len(buf) < 2 {
			return 0, nil
		}
		b.state = chunkSize
		return 2, nil
	default:
		return in.trailerStep(buf)
	}
}

// trailerStep reads the trailer section and its empty line.
func (in *input) trailerStep(buf []byte) (int, *ParseError) {
	n, perr := in.body.scan.scan(buf)
	if perr != nil {
		return 0, perr
	}
	limit := in.cfg.trailerBytesMax()
	if n > limit || n == 0 && len(buf) >= limit {
		return 0, refuse(431, "trailers too large")
	}
	if n == 0 {
		return 0, nil
	}
	if n > 2 {
		h := in.body.trailer
		if perr := parseTrailers(h, h.Keep(buf[:n]), in.cfg.fieldsMax()); perr != nil {
			return 0, perr
		}
	}
	in.body.done = true
	return n, nil
}

// parseChunkSize reads chunk-size [ chunk-ext ] CRLF (RFC 9112 §7.1). The extensions are
// checked for control characters and thrown away. White space before the
// semicolon, which §7.1.1 lets recipients accept, is refused: parsers differ on it.
func parseChunkSize(line []byte) (size int64, extensions int, perr *ParseError) {
	n := len(line) - 2
	if n < 0 || line[n] != '\r' {
		return 0, 0, malformed("chunk size line ends in a bare LF")
	}
	line = line[:n]
	i := 0
	for ; i < len(line); i++ {
		v := hexValue[line[i]]
		if v == 0xff {
			break
		}
		if i == 15 {
			return 0, 0, malformed("chunk size too large")
		}
		size = size<<4 | int64(v)
	}
	if i == 0 || i < len(line) && line[i] != ';' || !validValue(line[i:]) {
		return 0, 0, malformed("invalid chunk size")
	}
	return size, len(line) - i, nil
}
