package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	dialTimeout    = 10 * time.Second
	commandTimeout = 5 * time.Minute  // RFC 5321 4.5.3.2.2 (MAIL) and .3 (RCPT)
	dotTimeout     = 10 * time.Minute // RFC 5321 4.5.3.2.6
	firstReconnect = 50 * time.Millisecond
	lastReconnect  = time.Second
	maxReplyLines  = 100
)

// kind is what became of an attempt.
type kind int

const (
	accepted   kind = iota
	refused         // 5xx
	deferred        // 4xx
	unanswered      // the final dot went out and no answer came
)

// result is the end of one attempt.
type result struct {
	message    *message
	kind       kind
	reply      string
	err        error
	took       time.Duration
	reconnects int
}

// worker owns one connection and sends one message at a time.
type worker struct {
	addr    string
	helo    string
	content *content
	results chan<- result
	trouble chan<- error // connections that failed, while their message is tried again

	conn *connection // nil when there is none
	lost bool        // the last connection, or the attempt to open one, failed
}

// run sends what comes from jobs until it is closed or ctx ends.
func (w *worker) run(ctx context.Context, jobs <-chan *message) {
	defer func() {
		if w.conn != nil {
			w.conn.quit()
		}
	}()
	for {
		select {
		case m, ok := <-jobs:
			if !ok {
				return
			}
			res, ok := w.deliver(ctx, m)
			if !ok {
				return
			}
			select {
			case w.results <- res:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// deliver tries until the server gave an answer about m or could have taken it; false when ctx ended.
func (w *worker) deliver(ctx context.Context, m *message) (result, bool) {
	res := result{message: m}
	for pause := firstReconnect; ; pause = min(2*pause, lastReconnect) {
		if ctx.Err() != nil {
			return res, false
		}
		if w.lost {
			res.reconnects++
		}
		err := w.connect(ctx)
		if err == nil {
			m.attempts++
			start := time.Now()
			res.kind, res.reply, err = w.conn.send(m, w.content.message(m, start))
			res.took = time.Since(start)
			if err == nil {
				w.lost = false
				if strings.HasPrefix(res.reply, "421") {
					w.drop()
				}
				return res, true
			}
			w.drop()
		}
		w.lost, res.err = true, err
		if res.kind == unanswered {
			return res, true
		}
		select {
		case w.trouble <- err:
		case <-ctx.Done():
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

func (w *worker) drop() {
	w.conn.close()
	w.conn = nil
}

func (w *worker) connect(ctx context.Context) error {
	if w.conn != nil {
		return nil
	}
	raw, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", w.addr)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	release := context.AfterFunc(ctx, func() { _ = raw.Close() })
	c := &connection{conn: raw, release: release, r: bufio.NewReader(raw), w: bufio.NewWriterSize(raw, 16<<10)}
	if err := c.hello(w.helo); err != nil {
		c.close()
		return fmt.Errorf("greet %s: %w", w.addr, err)
	}
	w.conn = c
	return nil
}

// connection is an SMTP session with the server.
type connection struct {
	conn       net.Conn
	r          *bufio.Reader
	w          *bufio.Writer
	pipelining bool
	release    func() bool // of the hook that closes conn when the run ends
}

func (c *connection) close() {
	c.release()
	_ = c.conn.Close()
}

// quit leaves without waiting for long.
func (c *connection) quit() {
	_ = c.conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = c.w.WriteString("QUIT\r\n")
	_ = c.w.Flush()
	_, _, _ = c.reply()
	c.close()
}

func (c *connection) hello(name string) error {
	_ = c.conn.SetDeadline(time.Now().Add(dialTimeout))
	if code, text, err := c.reply(); err != nil || code != 220 {
		return replyError(text, err)
	}
	_, _ = c.w.WriteString("EHLO " + name + "\r\n")
	if err := c.w.Flush(); err != nil {
		return err
	}
	code, text, err := c.reply()
	if err != nil || code != 250 {
		return replyError(text, err)
	}
	for line := range strings.SplitSeq(text, "\n") {
		if len(line) > 4 && strings.EqualFold(strings.TrimSpace(line[4:]), "PIPELINING") {
			c.pipelining = true
		}
	}
	return nil
}

func replyError(text string, err error) error {
	if err != nil {
		return err
	}
	return errors.New("server says " + strconv.Quote(text))
}

// send sends one message. Without an error it returns the server's verdict and the reply that
// decided. With an error, unanswered says that the server may have the message all the same.
func (c *connection) send(m *message, data string) (kind, string, error) {
	_ = c.conn.SetDeadline(time.Now().Add(commandTimeout))
	commands := []string{"MAIL FROM:<" + m.sender + ">\r\n", "RCPT TO:<" + m.recipient + ">\r\n", "DATA\r\n"}
	decision := "" // the first reply that was not as it should be
	verdict := deferred
	code := 0
	if c.pipelining {
		for _, command := range commands {
			_, _ = c.w.WriteString(command) // the writer keeps its first error for Flush
		}
		if err := c.w.Flush(); err != nil {
			return deferred, "", fmt.Errorf("send the envelope: %w", err)
		}
	}
	for i, command := range commands {
		if !c.pipelining {
			if decision != "" {
				break
			}
			_, _ = c.w.WriteString(command)
			if err := c.w.Flush(); err != nil {
				return deferred, "", fmt.Errorf("send the envelope: %w", err)
			}
		}
		var text string
		var err error
		if code, text, err = c.reply(); err != nil {
			if decision != "" { // the server hung up behind it, as it may after 421
				return verdict, decision, nil
			}
			return deferred, "", fmt.Errorf("read the reply to %.4s: %w", command, err)
		}
		want := 2
		if i == len(commands)-1 {
			want = 3
		}
		if code/100 != want && decision == "" {
			decision = text
			if code/100 == 5 {
				verdict = refused
			}
		}
	}
	if decision != "" {
		if code == 354 { // the server wants a message all the same
			_, _ = c.w.WriteString(".\r\n")
			c.settle(".\r\n")
		} else {
			c.settle("RSET\r\n")
		}
		return verdict, decision, nil
	}
	return c.sendData(data)
}

// settle ends a refused transaction. Its failure means a dead connection, not another verdict.
func (c *connection) settle(line string) {
	_, _ = c.w.WriteString(line)
	if c.w.Flush() == nil {
		_, _, _ = c.reply()
	}
}

func (c *connection) sendData(data string) (kind, string, error) {
	_ = c.conn.SetDeadline(time.Now().Add(dotTimeout))
	_, _ = c.w.WriteString(data)
	_, _ = c.w.WriteString(".\r\n")
	if err := c.w.Flush(); err != nil {
		// The dot is in the last write, and that did not go out whole.
		return deferred, "", fmt.Errorf("send the message: %w", err)
	}
	code, text, err := c.reply()
	switch {
	case err != nil:
		return unanswered, "", fmt.Errorf("wait for the answer to the message: %w", err)
	case code/100 == 2:
		return accepted, text, nil
	case code/100 == 5:
		return refused, text, nil
	default:
		return deferred, text, nil
	}
}

// reply reads one reply; its lines are parted by \n.
func (c *connection) reply() (code int, text string, err error) {
	var lines []string
	for range maxReplyLines {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, "", err
		}
		s := strings.TrimRight(string(line), "\r\n")
		if len(s) < 3 {
			return 0, "", fmt.Errorf("malformed reply %q", s)
		}
		if code, err = strconv.Atoi(s[:3]); err != nil || code < 200 || code > 599 {
			return 0, "", fmt.Errorf("malformed reply %q", s)
		}
		lines = append(lines, s)
		if len(s) == 3 || s[3] == ' ' {
			return code, strings.Join(lines, "\n"), nil
		}
	}
	return 0, "", errors.New("endless reply")
}
