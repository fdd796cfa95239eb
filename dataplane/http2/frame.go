package http2

import "encoding/binary"

// Frame types (RFC 9113 §6).
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	framePriority     = 0x2
	frameReset        = 0x3
	frameSettings     = 0x4
	framePushPromise  = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindowUpdate = 0x8
	frameContinuation = 0x9
)

// Flags.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Settings (RFC 9113 §6.5.2, RFC 8441 §3).
const (
	settingHeaderTableSize      = 0x1
	settingEnablePush           = 0x2
	settingMaxConcurrentStreams = 0x3
	settingInitialWindowSize    = 0x4
	settingMaxFrameSize         = 0x5
	settingMaxHeaderListSize    = 0x6
	settingEnableConnect        = 0x8
)

const frameHeaderLen = 9

// preface is what a client sends first (RFC 9113 §3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// frame is the fixed part of a frame (RFC 9113 §4.1).
type frame struct {
	length int
	kind   uint8
	flags  uint8
	stream uint32
}

func parseFrame(b []byte) frame {
	_ = b[8]
	return frame{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		kind:   b[3],
		flags:  b[4],
		stream: binary.BigEndian.Uint32(b[5:]) & maxStreamID, // the reserved bit is ignored
	}
}

func (f frame) has(flag uint8) bool { return f.flags&flag != 0 }

func appendFrame(dst []byte, f frame) []byte {
	return append(dst, byte(f.length>>16), byte(f.length>>8), byte(f.length), f.kind, f.flags,
		byte(f.stream>>24), byte(f.stream>>16), byte(f.stream>>8), byte(f.stream))
}

// setLength writes the length of the frame that begins at b.
func setLength(b []byte, n int) { b[0], b[1], b[2] = byte(n>>16), byte(n>>8), byte(n) }

func appendReset(dst []byte, id uint32, code Code) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(dst, frame{4, frameReset, 0, id}), uint32(code))
}

func appendWindowUpdate(dst []byte, id uint32, n int) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(dst, frame{4, frameWindowUpdate, 0, id}), uint32(n))
}

func appendPing(dst []byte, flags uint8, data uint64) []byte {
	return binary.BigEndian.AppendUint64(appendFrame(dst, frame{8, framePing, flags, 0}), data)
}

func appendGoAway(dst []byte, last uint32, code Code, debug string) []byte {
	dst = appendFrame(dst, frame{8 + len(debug), frameGoAway, 0, 0})
	dst = binary.BigEndian.AppendUint32(dst, last)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return append(dst, debug...)
}

func appendSetting(dst []byte, id uint16, v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(dst, id), v)
}

// unpad returns the payload of a DATA or HEADERS frame without its padding (RFC 9113
// §6.1); ok is false if the padding is longer than the frame.
func unpad(f frame, p []byte) (_ []byte, ok bool) {
	if !f.has(flagPadded) {
		return p, true
	}
	if len(p) < 1 || int(p[0]) > len(p)-1 {
		return nil, false
	}
	return p[1 : len(p)-int(p[0])], true
}
