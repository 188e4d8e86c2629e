package orders

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"carom/schemas/atomicfile"
	"carom/schemas/clock"
)

// FileName is the name of the file in the spool's folder.
const FileName = "orders.json"

// fileFormat is the version of the file's format that this package writes and reads.
const fileFormat = 1

// maxOrders bounds the orders in force, and with them what each check of an order costs and what
// is written for a new one. Nobody oversees more.
const maxOrders = 1000

// maxFile bounds the file: maxOrders with the longest names and reason.
const maxFile = maxOrders * (8*maxName + maxReason)

// ErrUnknown is returned for an order that is not in force.
var ErrUnknown = errors.New("no such order is in force")

// Store is the orders in force.
type Store struct {
	path string

	mu   sync.Mutex // held by whoever changes the orders
	last uint64     // the highest number that was given

	current atomic.Pointer[[]Order] // by number; never changed in its place
}

// file is what is on disk.
type file struct {
	Format int     `json:"format"`
	Last   uint64  `json:"last_id"`
	Orders []Order `json:"orders"`
}

// Open reads the orders at path; there are none if there is no file.
func Open(path string) (*Store, error) {
	s := &Store{path: path}
	s.current.Store(&[]Order{})
	f, err := os.Open(path) //nolint:gosec // the node's own file
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("orders: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("orders: %w", err)
	}
	read, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("orders in %s are not readable (without them paused mail would flow; move the file away to go on without): %w", path, err)
	}
	s.last = read.Last
	s.current.Store(&read.Orders)
	return s, nil
}

func decode(data []byte) (file, error) {
	if len(data) > maxFile {
		return file{}, fmt.Errorf("longer than %d bytes", maxFile)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	f := file{Orders: []Order{}}
	if err := decoder.Decode(&f); err != nil {
		return file{}, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return file{}, errors.New("something follows the orders")
	}
	if f.Format != fileFormat {
		return file{}, fmt.Errorf("format %d, want %d", f.Format, fileFormat)
	}
	for i := range f.Orders {
		o := &f.Orders[i]
		if err := o.Validate(); err != nil {
			return file{}, fmt.Errorf("order %d: %w", o.ID, err)
		}
		if o.ID == 0 || o.ID > f.Last || i > 0 && o.ID <= f.Orders[i-1].ID {
			return file{}, fmt.Errorf("order %d is out of turn", o.ID)
		}
	}
	return f, nil
}

// List returns the orders in force by number, those that have expired and not been removed yet
// among them. The caller must not change it.
func (s *Store) List() []Order { return *s.current.Load() }

// Add puts an order in force. It gives it the next number and returns it when it is on disk. The
// error is an *InvalidError if the order makes no sense or is one too many.
func (s *Store) Add(o Order) (Order, error) {
	o.Made, o.Expires, o.Filter.ArrivedBefore = plain(o.Made), plain(o.Expires), plain(o.Filter.ArrivedBefore)
	if err := o.Validate(); err != nil {
		return Order{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.List()) >= maxOrders {
		return Order{}, invalidf("%d orders are in force, which is the most; end some first", maxOrders)
	}
	o.ID = s.last + 1
	if err := s.replace(o.ID, append(slices.Clone(s.List()), o)); err != nil {
		return Order{}, err
	}
	return o, nil
}

// plain returns t as it is read back from the file.
func plain(t time.Time) time.Time { return t.Round(0).UTC() }

// End ends orders. It returns when that is on disk, with ErrUnknown, and nothing changed, if one of
// them is not in force.
func (s *Store) End(ids ...uint64) error {
	if len(ids) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(s.List()), func(o Order) bool { return slices.Contains(ids, o.ID) })
	if len(left)+len(ids) != len(s.List()) {
		return ErrUnknown
	}
	return s.replace(s.last, left)
}

// Expire ends the orders that expired by now and returns them.
func (s *Store) Expire(now time.Time) ([]Order, error) {
	var ended []Order
	for _, o := range s.List() {
		if o.expired(now) {
			ended = append(ended, o)
		}
	}
	ids := make([]uint64, len(ended))
	for i := range ended {
		ids[i] = ended[i].ID
	}
	if err := s.End(ids...); err != nil {
		return nil, err
	}
	return ended, nil
}

// Extend lets an order expire later, if it would expire before.
func (s *Store) Extend(id uint64, expires time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := slices.Clone(s.List())
	i := slices.IndexFunc(next, func(o Order) bool { return o.ID == id })
	if i < 0 {
		return ErrUnknown
	}
	if !next[i].Expires.Before(expires) {
		return nil
	}
	next[i].Expires = plain(expires)
	return s.replace(s.last, next)
}

// replace makes orders the ones in force, on disk first. The caller holds s.mu.
func (s *Store) replace(last uint64, next []Order) error {
	data, err := json.MarshalIndent(file{Format: fileFormat, Last: last, Orders: next}, "", " ")
	if err != nil {
		return fmt.Errorf("orders: %w", err)
	}
	if len(data) >= maxFile {
		return invalidf("the orders in force are longer than %d bytes together; end some first", maxFile)
	}
	if err := atomicfile.Write(s.path, func(w io.Writer) error {
		_, err := w.Write(append(data, '\n'))
		return err
	}); err != nil {
		return fmt.Errorf("orders: %w", err)
	}
	s.last = last
	s.current.Store(&next)
	return nil
}

// Disabled reports whether an order keeps the queue (domain/vmta) from using the local address.
func (s *Store) Disabled(queue string, ip netip.Addr) bool {
	for _, o := range s.List() {
		if o.Kind == DisableSource && o.IP == ip && Match(o.Filter.Queue, queue) && !o.expired(clock.Now()) {
			return true
		}
	}
	return false
}
