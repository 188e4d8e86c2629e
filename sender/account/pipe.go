package account

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// PipeBytes is a good MaxBytes for a Pipe: what the system takes at once without waiting for the
// program.
const PipeBytes = 64 << 10

// exitTime is how long a program has to end after its input has.
const exitTime = 5 * time.Second

// Pipe is a Receiver that writes records to the standard input of a program. The program is started
// by the first record and kept; each start begins with the header line. A program that reads nothing
// for WriteTimeout is ended. One that ended is started again, and gets the batch that was not
// written from its beginning. What it had not read when it ended is lost with it.
type Pipe struct {
	command []string
	timeout time.Duration

	process *exec.Cmd // nil: it does not run
	input   *os.File
	ended   chan exit // has how the process ended, once
}

// NewPipe returns a pipe to a command, the program and its arguments; no shell is in between.
func NewPipe(command []string, writeTimeout time.Duration) *Pipe {
	return &Pipe{command: command, timeout: writeTimeout}
}

// Send is part of Receiver. A write that ctx interrupts ends the program, like one that takes too long.
func (p *Pipe) Send(ctx context.Context, b *Batch) error {
	if p.process != nil {
		select {
		case end := <-p.ended:
			p.forget()
			return fmt.Errorf("executing %q: program ended: %w", p.command[0], end.reason())
		default:
		}
	}
	if p.process == nil {
		if err := p.start(); err != nil {
			return fmt.Errorf("starting %q: %w", p.command[0], err)
		}
		if err := p.write(ctx, b.Header); err != nil {
			return err
		}
	}
	return p.write(ctx, b.Lines)
}

// exit is how a process ended.
type exit struct{ err error }

func (e exit) reason() error {
	if e.err == nil {
		return errors.New("exit status 0")
	}
	return e.err
}

func (p *Pipe) start() error {
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	process := exec.Command(p.command[0], p.command[1:]...) //nolint:gosec,noctx // the operator's own program, which Close ends
	process.Stdin = out
	err = process.Start()
	_ = out.Close() // the program has its own
	if err != nil {
		_ = in.Close()
		return err
	}
	p.process, p.input, p.ended = process, in, make(chan exit, 1)
	go func(ended chan<- exit) { ended <- exit{process.Wait()} }(p.ended)
	return nil
}

// write writes whole lines, or ends the program: half a line must not be followed by another one.
func (p *Pipe) write(ctx context.Context, lines []byte) error {
	input := p.input
	defer context.AfterFunc(ctx, func() { _ = input.SetWriteDeadline(time.Unix(1, 0)) })() // if it is closed nobody waits
	for len(lines) > 0 {
		if err := input.SetWriteDeadline(time.Now().Add(p.timeout)); err != nil {
			return p.kill(err)
		}
		if err := ctx.Err(); err != nil { // its deadline may have been the earlier one
			return p.kill(err)
		}
		n, err := input.Write(lines[:min(len(lines), PipeBytes)])
		if lines = lines[n:]; err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return p.kill(err)
		}
	}
	return nil
}

// kill ends the program and says why.
func (p *Pipe) kill(err error) error {
	_ = p.process.Process.Kill() // if it has ended there is nothing to end
	<-p.ended
	p.forget()
	return fmt.Errorf("writing to %q: %w", p.command[0], err)
}

func (p *Pipe) forget() {
	_ = p.input.Close() // nobody reads any more
	p.process, p.input = nil, nil
}

// Close ends the program's input and waits for its end; after exitTime it kills it.
func (p *Pipe) Close() error {
	if p.process == nil {
		return nil
	}
	err := p.input.Close()
	timer := time.NewTimer(exitTime)
	defer timer.Stop()
	select {
	case <-p.ended: // however it ended
	case <-timer.C:
		_ = p.process.Process.Kill() // it had its time
		<-p.ended
	}
	p.process, p.input = nil, nil
	return err
}
