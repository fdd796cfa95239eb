package handover

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// version of the conversation. A process that speaks another is refused, and then both go on as
// they were: replacing is an offer, never a need.
const version = 1

// What is said, in this order: hello by the successor; ports by the process before it, in one
// message or several; serving by the successor once it answers; yours by the other when it accepts
// no more. refused, by either, ends it.
const (
	sayHello   = "hello"
	sayPorts   = "ports"
	sayServing = "serving"
	sayYours   = "yours"
	sayRefused = "refused"
)

// message is one message: four bytes of length, and JSON. The descriptors of ports travel beside
// their message's first byte (unix(7), SCM_RIGHTS).
type message struct {
	Say     string
	Version int    `json:",omitempty"`
	ID      string `json:",omitempty"`
	PID     int    `json:",omitempty"`
	// Ports name the descriptors, one each; More says that another such message follows.
	Ports []string `json:",omitempty"`
	More  bool     `json:",omitempty"`
	Why   string   `json:",omitempty"`
}

const (
	messageMax = 64 << 10
	// rightsMax descriptors go with a message: the kernel takes 253 (SCM_MAX_FD).
	rightsMax = 128
	portsMax  = 16 << 10
)

var errWords = errors.New("the other process says what it should not")

func send(c *net.UnixConn, m message, files []given) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > messageMax {
		return fmt.Errorf("a message of %d bytes: at most %d", len(b), messageMax)
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, g := range files {
			raw, err := g.file.SyscallConn()
			if err != nil {
				return err
			}
			// The descriptor stays open beyond Control: its file is the caller's.
			if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
				return err
			}
		}
		rights = syscall.UnixRights(fds...)
	}
	b = append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...)
	n, _, err := c.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		_, err = c.Write(b[n:])
	}
	return err
}

// receive reads one message and the descriptors with it, which the caller closes; on an error
// there are none.
func receive(c *net.UnixConn) (m message, files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	buf, rights := make([]byte, 4+messageMax), make([]byte, syscall.CmsgSpace(4*rightsMax))
	got, want := 0, 4
	for got < want {
		n, oob, flags, _, err := c.ReadMsgUnix(buf[got:want], rights)
		if err != nil {
			return m, files, err
		}
		more, err := descriptors(rights[:oob])
		files = append(files, more...)
		switch {
		case err != nil:
			return m, files, err
		case flags&syscall.MSG_CTRUNC != 0:
			return m, files, errors.New("descriptors were lost: too many are open")
		case n == 0:
			return m, files, io.ErrUnexpectedEOF
		}
		if got += n; got == 4 && want == 4 {
			size := binary.BigEndian.Uint32(buf)
			if size > messageMax {
				return m, files, fmt.Errorf("%w: a message of %d bytes", errWords, size)
			}
			want = 4 + int(size)
		}
	}
	if err := json.Unmarshal(buf[4:want], &m); err != nil {
		return m, files, fmt.Errorf("%w: %w", errWords, err)
	}
	if len(files) != len(m.Ports) {
		return m, files, fmt.Errorf("%w: %d names and %d descriptors", errWords, len(m.Ports), len(files))
	}
	return m, files, nil
}

// descriptors makes files of what came beside a message; none that were received stays open
// unowned, whatever the error.
func descriptors(rights []byte) ([]*os.File, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := syscall.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var out []*os.File
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			continue // another kind of control message
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			out = append(out, os.NewFile(uintptr(fd), "port"))
		}
	}
	return out, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// expect receives a message of one kind.
func expect(c *net.UnixConn, say string) (message, []*os.File, error) {
	m, files, err := receive(c)
	switch {
	case err != nil:
	case m.Say == sayRefused:
		err = fmt.Errorf("the other process refuses: %s", m.Why)
	case m.Say != say:
		err = fmt.Errorf("%w: %q for %q", errWords, m.Say, say)
	}
	if err != nil {
		closeAll(files)
		return m, nil, err
	}
	return m, files, nil
}
