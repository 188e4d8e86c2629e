package suppression

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"carom/schemas/atomicfile"
)

// ErrMalformed is wrapped by the error of Load for a file that is no snapshot or is damaged.
var ErrMalformed = errors.New("malformed suppression snapshot")

// The file, numbers in little endian:
//
//	magic       8 bytes, the format's version in the last
//	generation  8
//	written     8, microseconds since 1970
//	lists       4, number of lists
//	list ×      2 length of the tenant's name, the name, 8 number of keys; by name, Global first
//	released    8, number of released keys
//	keys        16 each, list after list, ascending within a list
//	released ×  16 key, ascending, and 8 time, microseconds since 1970
//	checksum    4, CRC-32C of everything before
var magic = [8]byte{'C', 'A', 'R', 'S', 'U', 'P', 'P', 2}

const (
	headerSize   = 28
	maxLists     = 1 << 20
	maxTenant    = 1 << 12 // bytes of a tenant's name
	checksumSize = 4
	releasedSize = keySize + 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type rawKey = [keySize]byte

// List is what Save writes: 16 bytes an entry. The zero List is empty and ready to use.
type List struct {
	lists    map[string][]rawKey
	released []release
}

type release struct {
	key rawKey
	at  int64 // microseconds since 1970
}

// Suppress adds a key, as Key returns it, for a tenant, or for all with Global. It may come twice.
func (l *List) Suppress(tenant, key string) error {
	var raw rawKey
	if !decodeKey(&raw, key) {
		return fmt.Errorf("%q is no suppression key", key)
	}
	if len(tenant) > maxTenant {
		return fmt.Errorf("tenant name of %d bytes is longer than %d", len(tenant), maxTenant)
	}
	if l.lists == nil {
		l.lists = map[string][]rawKey{}
	}
	if l.lists[tenant] == nil && len(l.lists) == maxLists {
		return fmt.Errorf("more than %d tenants", maxLists)
	}
	l.lists[tenant] = append(l.lists[tenant], raw)
	return nil
}

// Release adds a key that the warehouse decided not to suppress, at the time of the last statement:
// it was taken back, or waits for a second bounce. A node that suppressed it by itself before that
// lets it go.
func (l *List) Release(key string, at time.Time) error {
	var raw rawKey
	if !decodeKey(&raw, key) {
		return fmt.Errorf("%q is no suppression key", key)
	}
	l.released = append(l.released, release{raw, at.UnixMicro()})
	return nil
}

// Len returns the number of entries that Suppress added.
func (l *List) Len() int {
	n := 0
	for _, keys := range l.lists {
		n += len(keys)
	}
	return n
}

// sort orders the list and leaves each key once, the released with their last time.
func (l *List) sort() {
	for tenant, keys := range l.lists {
		slices.SortFunc(keys, func(a, b rawKey) int { return bytes.Compare(a[:], b[:]) })
		l.lists[tenant] = slices.Compact(keys)
	}
	slices.SortFunc(l.released, func(a, b release) int {
		return cmp.Or(bytes.Compare(a.key[:], b.key[:]), cmp.Compare(b.at, a.at))
	})
	l.released = slices.CompactFunc(l.released, func(a, b release) bool { return a.key == b.key })
}

// Snapshot is the state of all suppressions at one generation.
type Snapshot struct {
	generation uint64
	written    time.Time
	lists      map[string][]byte
	released   []byte
	size       int
}

// Generation returns the generation of the snapshot, of a nil one 0; a greater one is newer.
func (s *Snapshot) Generation() uint64 {
	if s == nil {
		return 0
	}
	return s.generation
}

// Written returns when the snapshot was written, by the writer's clock.
func (s *Snapshot) Written() time.Time { return s.written }

// Len returns the number of entries, of a nil Snapshot 0.
func (s *Snapshot) Len() int {
	if s == nil {
		return 0
	}
	return s.size
}

// Contains reports whether key is suppressed for tenant: globally, or for that tenant alone. It
// takes a binary search of each list. The zero Snapshot and a nil one contain nothing.
func (s *Snapshot) Contains(tenant, key string) bool {
	return s.Holds(Global, key) || tenant != Global && s.Holds(tenant, key)
}

// Holds reports whether the list of tenant itself, or the one for all with Global, has the key.
func (s *Snapshot) Holds(tenant, key string) bool {
	if s == nil {
		return false
	}
	var raw rawKey
	return decodeKey(&raw, key) && find(s.lists[tenant], &raw)
}

// Known reports whether key is suppressed for any tenant or for all. A nil Snapshot knows none.
func (s *Snapshot) Known(key string) bool {
	if s == nil {
		return false
	}
	var raw rawKey
	if !decodeKey(&raw, key) {
		return false
	}
	for _, list := range s.lists {
		if find(list, &raw) {
			return true
		}
	}
	return false
}

// Released returns when the warehouse last spoke of a key that it does not suppress, and false
// for a key that it has not spoken of lately.
func (s *Snapshot) Released(key string) (time.Time, bool) {
	if s == nil {
		return time.Time{}, false
	}
	var raw rawKey
	if !decodeKey(&raw, key) {
		return time.Time{}, false
	}
	i, found := search(s.released, releasedSize, &raw)
	if !found {
		return time.Time{}, false
	}
	at := binary.LittleEndian.Uint64(s.released[i*releasedSize+keySize:])
	return time.UnixMicro(int64(at)).UTC(), true //nolint:gosec // two's complement
}

func find(list []byte, key *rawKey) bool {
	_, found := search(list, keySize, key)
	return found
}

// search looks for a key in ascending records of a size that begin with their key.
func search(list []byte, size int, key *rawKey) (int, bool) {
	n := len(list) / size
	at := func(i int) []byte { return list[i*size : i*size+keySize] }
	i := sort.Search(n, func(i int) bool { return bytes.Compare(at(i), key[:]) >= 0 })
	return i, i < n && bytes.Equal(at(i), key[:])
}

// IsKey reports whether text has the form of a key.
func IsKey(text string) bool {
	var raw rawKey
	return decodeKey(&raw, text)
}

func decodeKey(raw *rawKey, key string) bool {
	if len(key) != 2*keySize {
		return false
	}
	_, err := hex.Decode(raw[:], []byte(key))
	return err == nil
}

// Save replaces the file name with a snapshot of the list, which it sorts. After it returned nil the
// snapshot is on disk.
func Save(name string, generation uint64, written time.Time, list *List) error {
	list.sort()
	return atomicfile.Write(name, func(w io.Writer) error { return list.encode(w, generation, written) })
}

func (l *List) encode(w io.Writer, generation uint64, written time.Time) error {
	tenants := make([]string, 0, len(l.lists))
	for tenant := range l.lists {
		tenants = append(tenants, tenant)
	}
	slices.SortFunc(tenants, strings.Compare)

	checksum := crc32.New(castagnoli)
	buffer := bufio.NewWriterSize(io.MultiWriter(w, checksum), 1<<16)
	head := append([]byte(nil), magic[:]...)
	head = binary.LittleEndian.AppendUint64(head, generation)
	head = binary.LittleEndian.AppendUint64(head, uint64(written.UnixMicro())) //nolint:gosec // two's complement
	head = binary.LittleEndian.AppendUint32(head, uint32(len(tenants)))        //nolint:gosec // bounded by maxLists
	for _, tenant := range tenants {
		head = binary.LittleEndian.AppendUint16(head, uint16(len(tenant))) //nolint:gosec // bounded by maxTenant
		head = append(head, tenant...)
		head = binary.LittleEndian.AppendUint64(head, uint64(len(l.lists[tenant])))
	}
	head = binary.LittleEndian.AppendUint64(head, uint64(len(l.released)))
	_, _ = buffer.Write(head) // Flush tells of an error
	for _, tenant := range tenants {
		for i := range l.lists[tenant] {
			_, _ = buffer.Write(l.lists[tenant][i][:])
		}
	}
	for _, r := range l.released {
		_, _ = buffer.Write(r.key[:])
		_, _ = buffer.Write(binary.LittleEndian.AppendUint64(nil, uint64(r.at))) //nolint:gosec // two's complement
	}
	if err := buffer.Flush(); err != nil {
		return err
	}
	return binary.Write(w, binary.LittleEndian, checksum.Sum32())
}

// Load reads the snapshot in the file name into memory, 16 bytes an entry. errors.Is(err,
// fs.ErrNotExist) tells that there is none yet.
func Load(name string) (*Snapshot, error) {
	data, err := os.ReadFile(name) //nolint:gosec // the caller names the file
	if err != nil {
		return nil, fmt.Errorf("read suppression snapshot: %w", err)
	}
	s, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return s, nil
}

func malformed(what string) error { return fmt.Errorf("%w: %s", ErrMalformed, what) }

// decode returns a snapshot whose lists lie in data.
func decode(data []byte) (*Snapshot, error) {
	if len(data) < headerSize+checksumSize || !bytes.Equal(data[:7], magic[:7]) {
		return nil, malformed("no snapshot")
	}
	if data[7] != magic[7] {
		return nil, malformed(fmt.Sprintf("format %d, want %d", data[7], magic[7]))
	}
	body, sum := data[:len(data)-checksumSize], data[len(data)-checksumSize:]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(sum) {
		return nil, malformed("wrong checksum")
	}
	s := &Snapshot{
		generation: binary.LittleEndian.Uint64(body[8:]),
		written:    time.UnixMicro(int64(binary.LittleEndian.Uint64(body[16:]))).UTC(), //nolint:gosec // two's complement
		lists:      map[string][]byte{},
	}
	count := binary.LittleEndian.Uint32(body[24:])
	rest := body[headerSize:]
	if count > maxLists {
		return nil, malformed("too many lists")
	}
	type list struct {
		tenant string
		keys   uint64
	}
	var lists []list
	for range count {
		if len(rest) < 2 {
			return nil, malformed("cut in the list of tenants")
		}
		n := int(binary.LittleEndian.Uint16(rest))
		if rest = rest[2:]; len(rest) < n+8 {
			return nil, malformed("cut in the list of tenants")
		}
		lists = append(lists, list{string(rest[:n]), binary.LittleEndian.Uint64(rest[n:])})
		rest = rest[n+8:]
	}
	if len(rest) < 8 {
		return nil, malformed("cut in the list of tenants")
	}
	released := binary.LittleEndian.Uint64(rest)
	rest = rest[8:]
	for _, l := range lists {
		if l.keys > uint64(len(rest)/keySize) {
			return nil, malformed("cut in the keys")
		}
		if _, twice := s.lists[l.tenant]; twice {
			return nil, malformed("a tenant comes twice")
		}
		n := int(l.keys) * keySize //nolint:gosec // bounded by len(rest)
		s.lists[l.tenant], rest = rest[:n:n], rest[n:]
		if !ascending(s.lists[l.tenant], keySize) {
			return nil, malformed("keys out of order")
		}
		s.size += int(l.keys) //nolint:gosec // bounded by len(rest)
	}
	if uint64(len(rest)%releasedSize) != 0 || uint64(len(rest)/releasedSize) != released {
		return nil, malformed("something else than the released keys follows the keys")
	}
	if s.released = rest; !ascending(rest, releasedSize) {
		return nil, malformed("released keys out of order")
	}
	return s, nil
}

// ascending reports whether the keys at the start of records of a size are.
func ascending(list []byte, size int) bool {
	for i := size; i < len(list); i += size {
		if bytes.Compare(list[i-size:i-size+keySize], list[i:i+keySize]) >= 0 {
			return false
		}
	}
	return true
}
