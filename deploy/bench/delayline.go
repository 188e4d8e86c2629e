package bench

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// delayLine is a TCP proxy that passes on everything that it reads after a delay, in the order in
// which it came: a network of that latency and of any bandwidth. It counts round trips: how often a
// client writes after it has been written to.
type delayLine struct {
	addr  string
	turns atomic.Int64 // round trips of all connections

	delay    time.Duration // each way
	to       string
	listener net.Listener
	cancel   context.CancelFunc
	wait     sync.WaitGroup
}

// openDelayLine passes connections on to the address to until close is called or ctx ends.
func openDelayLine(ctx context.Context, to string, delay time.Duration) (*delayLine, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &delayLine{addr: l.Addr().String(), delay: delay, to: to, listener: l}
	ctx, d.cancel = context.WithCancel(ctx)
	d.wait.Go(func() { d.accept(ctx) })
	return d, nil
}

// close cuts all connections.
func (d *delayLine) close() error {
	d.cancel()
	err := d.listener.Close()
	d.wait.Wait()
	return err
}

func (d *delayLine) accept(ctx context.Context) {
	for {
		client, err := d.listener.Accept()
		if err != nil {
			return // it was closed
		}
		d.wait.Go(func() { d.connect(ctx, client) })
	}
}

// connect serves one connection.
func (d *delayLine) connect(ctx context.Context, client net.Conn) {
	defer func() { _ = client.Close() }() // the peer sees its end
	server, err := new(net.Dialer).DialContext(ctx, "tcp", d.to)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	stop := context.AfterFunc(ctx, func() { _, _ = client.Close(), server.Close() })
	defer stop()
	var clientTurn atomic.Bool // the server wrote last; it greets
	var both sync.WaitGroup
	both.Go(func() {
		d.pass(ctx, server, client, func() {
			if clientTurn.CompareAndSwap(true, false) {
				d.turns.Add(1)
			}
		})
	})
	both.Go(func() { d.pass(ctx, client, server, func() { clientTurn.Store(true) }) })
	both.Wait()
}

// parcel is what was read at once.
type parcel struct {
	data []byte
	due  time.Time
}

// pass copies from src to dst until src ends, then closes dst for writing. It calls read whenever
// something was read.
func (d *delayLine) pass(ctx context.Context, dst, src net.Conn, read func()) {
	line := make(chan parcel, 1024)
	var writer sync.WaitGroup
	writer.Go(func() { deliver(ctx, dst, line) })
	defer writer.Wait()
	defer close(line)
	for {
		buffer := make([]byte, 32<<10)
		n, err := src.Read(buffer)
		if n > 0 {
			read()
			select {
			case line <- parcel{buffer[:n], time.Now().Add(d.delay)}:
			case <-ctx.Done():
				return
			}
		}
		if err != nil {
			return // the end, or cut
		}
	}
}

// deliver writes each parcel when it is due.
func deliver(ctx context.Context, dst net.Conn, line <-chan parcel) {
	for p := range line {
		if sleepUntil(ctx, p.due) != nil {
			continue // drain the line, so that the reader ends
		}
		if _, err := dst.Write(p.data); err != nil {
			continue // the peer is gone: its own end comes the other way
		}
	}
	if half, ok := dst.(*net.TCPConn); ok {
		_ = half.CloseWrite() // it may be closed
	}
}

// sleepUntil waits until t, or until ctx ends.
func sleepUntil(ctx context.Context, t time.Time) error {
	d := time.Until(t)
	if d <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
