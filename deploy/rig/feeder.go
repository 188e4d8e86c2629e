package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"time"
)

// ReplyError is an answer of the node that is not the wanted one.
type ReplyError struct {
	Command string
	Code    int
	Text    string
}

func (e *ReplyError) Error() string { return fmt.Sprintf("%s: %d %s", e.Command, e.Code, e.Text) }

// Feeder is a connection over which messages are handed to a node.
type Feeder struct {
	Conn net.Conn
	text *textproto.Conn
}

// replyTimeout bounds the wait for an answer of the node: one that does not come in so long a time
// is a failure of the node.
const replyTimeout = time.Minute

// Dial connects to the node and greets it.
func Dial(ctx context.Context, address string) (*Feeder, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	f := &Feeder{Conn: conn, text: textproto.NewConn(conn)}
	if err = f.Answer("greeting", 220); err == nil {
		err = f.Command("EHLO feeder.test", 250)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Close closes the connection without a word.
func (f *Feeder) Close() error { return f.text.Close() }

// Command sends a line and wants the code for an answer, else the error is a *ReplyError.
func (f *Feeder) Command(line string, want int) error {
	if err := f.text.PrintfLine("%s", line); err != nil {
		return err
	}
	return f.Answer(line, want)
}

// Answer reads an answer and wants the code, else the error is a *ReplyError that names the command.
func (f *Feeder) Answer(command string, want int) error {
	if err := f.Conn.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return err
	}
	_, text, err := f.text.ReadResponse(want)
	if wrong, ok := errors.AsType[*textproto.Error](err); ok {
		return &ReplyError{Command: command, Code: wrong.Code, Text: strings.ReplaceAll(text, "\n", " ")}
	}
	return err
}

// Begin sends the envelope and DATA and returns when the node wants the content.
func (f *Feeder) Begin(from string, recipients []string) error {
	if err := f.Command("MAIL FROM:<"+from+">", 250); err != nil {
		return err
	}
	for _, r := range recipients {
		if err := f.Command("RCPT TO:<"+r+">", 250); err != nil {
			return err
		}
	}
	return f.Command("DATA", 354)
}

// Finish sends the content and returns nil for a 250, a *ReplyError for any other answer. Any other
// error leaves open whether the node has taken the message.
func (f *Feeder) Finish(content []byte) error {
	w := f.text.DotWriter()
	if _, err := w.Write(content); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Answer("final dot", 250)
}

// Send hands over a message and notes what became of it. After an error that is no *ReplyError the
// connection is of no more use.
func (f *Feeder) Send(m Message, audit *Audit) error {
	if err := f.Begin("from@rig.test", m.Recipients); err != nil {
		if _, ok := errors.AsType[*ReplyError](err); ok {
			return errors.Join(err, f.Command("RSET", 250))
		}
		return err
	}
	audit.Offered(m)
	err := f.Finish(m.Content())
	if err == nil {
		audit.Accepted(m.Number)
	} else if _, ok := errors.AsType[*ReplyError](err); ok {
		audit.Refused(m.Number)
	}
	return err
}
