package smtpd

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"carom/sender/config"
)

// tape is a connection on which a feeder says everything at once, in pieces of some size.
type tape struct {
	played
	in     []byte
	piece  int
	out    bytes.Buffer
	closed sync.Once
}

func (p *tape) Read(b []byte) (int, error) {
	if len(p.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.piece)], p.in)
	p.in = p.in[n:]
	return n, nil
}
func (p *tape) Write(b []byte) (int, error) { return p.out.Write(b) }
func (p *tape) Close() error                { p.closed.Do(func() { close(p.ended) }); return nil }

// play runs a server on the tape and returns what it said and what it accepted.
func (p *tape) play(t *testing.T, conf string) (replies string, accepted []*Message) {
	t.Helper()
	c, _, err := config.Parse("test.conf", []byte(conf))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	d := &desk{}
	s := New(c, "mx.test", d, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError})))
	hall := &theatre{make(chan net.Conn, 1)}
	hall.conns <- p
	close(hall.conns)
	engine := s.engine(t.Context())
	_ = engine.Serve(&door{Listener: Listener{Listener: hall}, server: s})
	<-p.ended
	_ = engine.Shutdown(context.Background())
	if log.Len() > 0 {
		t.Fatalf("log: %s", log.String())
	}
	if used := s.buffers.used.Load(); used != 0 {
		t.Errorf("%d octets are still lent", used)
	}
	return p.out.String(), d.messages()
}

// judge follows a session by the letter: it knows what is a command, what is a message and what is
// neither, and asks the server only for what it answered.
type judge struct {
	t       *testing.T
	in      string
	replies []string // first the greeting
	want    []string // messages accepted
}

// reply takes the next reply, "" if there is none.
func (j *judge) reply() string {
	for len(j.replies) > 0 {
		line := j.replies[0]
		j.replies = j.replies[1:]
		if len(line) < 4 || line[3] != '-' {
			return line
		}
	}
	return ""
}

func (j *judge) line() (string, bool) {
	line, rest, ok := strings.Cut(j.in, "\n")
	if ok {
		j.in = rest
	}
	return strings.TrimRight(line, "\r"), ok
}

// follow returns when the session has ended.
func (j *judge) follow() {
	j.reply()
	var chunks string
	var chunking bool
	for {
		line, ok := j.line()
		if !ok {
			return
		}
		verb, argument, _ := strings.Cut(line, " ")
		var reply string
		switch strings.ToUpper(verb) {
		case "DATA":
			if reply = j.reply(); strings.HasPrefix(reply, "354") {
				content, rest, complete := dataOf(j.in)
				if reply = j.reply(); !complete {
					if strings.HasPrefix(reply, "250") {
						j.t.Errorf("half a message is answered with %q", reply)
					}
					return
				}
				if raw := j.in[:len(j.in)-len(rest)]; isBare(raw) && strings.HasPrefix(reply, "250") {
					j.t.Errorf("%q is answered with %q", raw, reply)
				}
				j.in = rest
				j.accept(reply, content)
			}
		case "BDAT":
			size, last, _ := strings.Cut(strings.TrimSpace(argument), " ")
			n, err := strconv.ParseUint(size, 10, 63)
			if reply = j.reply(); err != nil || strings.HasPrefix(reply, "501") {
				return
			}
			if n > uint64(len(j.in)) {
				if strings.HasPrefix(reply, "250") {
					j.t.Errorf("half a chunk is answered with %q", reply)
				}
				return
			}
			if strings.HasPrefix(reply, "503") {
				j.in = j.in[n:]
				break
			}
			if !chunking {
				chunks, chunking = "", true
			}
			chunks += j.in[:n]
			j.in = j.in[n:]
			if last != "" || !strings.HasPrefix(reply, "250") {
				j.accept(reply, chunks)
				chunking = false
			}
		default:
			reply = j.reply()
			if v := strings.ToUpper(verb); v == "RSET" || v == "EHLO" || v == "HELO" {
				chunking = false
			}
		}
		switch {
		case reply == "":
			j.t.Errorf("no answer to %q", line)
			return
		case strings.HasPrefix(reply, "421"), strings.HasPrefix(reply, "221"), strings.Contains(reply, "line is too long"):
			return
		case len(j.replies) > 0 && strings.Contains(j.replies[0], "Too many errors"):
			j.reply()
			return
		}
	}
}

func (j *judge) accept(reply, content string) {
	if strings.HasPrefix(reply, "250") {
		j.want = append(j.want, content)
	}
}

// FuzzSession says anything to a server, in any pieces. What it accepts as messages, and what it
// answers to what, must be what follows from the letter of the protocol.
func FuzzSession(f *testing.F) {
	const begin = "EHLO a\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"
	for _, s := range []string{
		"", "QUIT\r\n", "EHLO a\nNOOP\n", begin + "DATA\r\nA: b\r\n\r\n..x\r\n.\r\nQUIT\r\n",
		begin + "DATA\r\nx\n.\nMAIL FROM:<e@f.test>\r\n.\r\n", begin + "DATA\r\nx\r\n.\rMAIL FROM:<e@f.test>\r\n\r\n.\r\nNOOP\r\n",
		begin + "DATA\r\nx\r\n.\n\r\n.\r\n", begin + "DATA\r\nx\n.\r\nNOOP\r\n.\r\n", begin + "DATA\r\nx\r\r\n.\r\nNOOP\r\n",
		begin + "BDAT 4\r\nA: bBDAT 6 LAST\r\n\r\n\r\nx\nNOOP\r\n", begin + "BDAT 5\r\nRSET\nRSET\r\nBDAT 1 LAST\r\nxQUIT\r\n",
		begin + "BDAT 5\r\nRSET\nDATA\r\nEHLO x\r\nDATA\r\n" + begin + "BDAT 2 LAST\r\n\r\n", begin + "BDAT 99999999999 LAST\r\nx", begin + "BDAT 0 LAST\r\n",
		"EHLO a\r\nSTARTTLS\r\nEHLO a\r\n", "EHLO a\r\nAUTH PLAIN\r\n*\r\nAUTH PLAIN AGEAYg==\r\n", "AUTH LOGIN\r\nEHLO a\r\nAUTH LOGIN\r\nYQ==\r\nYg==\r\n",
		"\r\n\r\n\r\n\r\n\r\n", "WHAT\r\nWHAT\r\nEHLO a\r\nWHAT\r\nWHAT\r\nWHAT\r\n", "ehlo a\r\nmail from:<>\r\nrcpt to:<a@b>\r\ndata\r\n.\r\n", "EHLO \xff\r\nMAIL FROM:<\xff@b>\r\n",
	} {
		f.Add([]byte(s), 4096)
		f.Add([]byte(s), 1)
	}
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		p := &tape{played: played{ended: make(chan struct{})}, in: in, piece: min(max(piece, 1), 4096)}
		replies, accepted := p.play(t, open+"<source 127.0.0.1>\nadd-received-header no\n</source>")
		j := &judge{t: t, in: string(in), replies: strings.SplitAfter(replies, "\r\n")}
		j.replies = j.replies[:len(j.replies)-1]
		j.follow()
		if len(j.replies) > 0 {
			t.Errorf("replies to nothing: %q", j.replies)
		}
		got := make([]string, 0, len(accepted))
		for _, m := range accepted {
			got = append(got, string(m.Content))
		}
		if len(got) != len(j.want) {
			t.Fatalf("%d messages accepted, want %d: %q", len(got), len(j.want), got)
		}
		for i := range got {
			// The header may lose a field of carom's and get an empty line behind it.
			if !strings.HasSuffix(j.want[i], got[i]) && !strings.Contains(strings.ToLower(j.want[i]), "x-carom-ref") && withoutBreaks(got[i]) != withoutBreaks(j.want[i]) {
				t.Errorf("message %d is %q, want %q", i, got[i], j.want[i])
			}
		}
	})
}

func withoutBreaks(s string) string { return strings.ReplaceAll(s, "\r\n", "") }
