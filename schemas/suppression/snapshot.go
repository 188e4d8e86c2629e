package suppression

import (
	"bufio"
	"bytes"
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
//	keys        16 each, list after list, ascending within a list
//	checksum    4, CRC-32C of everything before
var magic = [8]byte{'C', 'A', 'R', 'S', 'U', 'P', 'P', 1}

const (
	headerSize   = 28
	maxLists     = 1 << 20
	maxTenant    = 1 << 12 // bytes of a tenant's name
	checksumSize = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Entry says that a key is suppressed for a tenant, or for all with Global.
type Entry struct {
	Tenant string
	Key    string // as Key returns it
}

// Snapshot is the state of all suppressions at one generation.
type Snapshot struct {
	generation uint64
	written    time.Time
	lists      map[string][]byte
	size       int
}

// Generation returns the generation of the snapshot; a greater one is newer.
func (s *Snapshot) Generation() uint64 { return s.generation }

// Written returns when the snapshot was written, by the writer's clock.
func (s *Snapshot) Written() time.Time { return s.written }

// Len returns the number of entries.
func (s *Snapshot) Len() int { return s.size }

// Contains reports whether key is suppressed for tenant: globally, or for that tenant alone. It
// takes a binary search of each list. The zero Snapshot and a nil one contain nothing.
func (s *Snapshot) Contains(tenant, key string) bool {
	if s == nil {
		return false
	}
	var raw [keySize]byte
	if !decodeKey(&raw, key) {
		return false
	}
	return find(s.lists[Global], &raw) || tenant != Global && find(s.lists[tenant], &raw)
}

// Known reports whether key is suppressed for any tenant or for all. A nil Snapshot knows none.
func (s *Snapshot) Known(key string) bool {
	if s == nil {
		return false
	}
	var raw [keySize]byte
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

func find(list []byte, key *[keySize]byte) bool {
	n := len(list) / keySize
	i := sort.Search(n, func(i int) bool { return bytes.Compare(list[i*keySize:(i+1)*keySize], key[:]) >= 0 })
	return i < n && bytes.Equal(list[i*keySize:(i+1)*keySize], key[:])
}

func decodeKey(raw *[keySize]byte, key string) bool {
	if len(key) != 2*keySize {
		return false
	}
	_, err := hex.Decode(raw[:], []byte(key))
	return err == nil
}

// Save replaces the file name with a snapshot of entries, in any order; an entry may come twice.
// After it returned nil the snapshot is on disk. It returns an error, and leaves the file as it
// was, for an entry whose key is none.
func Save(name string, generation uint64, written time.Time, entries []Entry) error {
	lists, err := group(entries)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return atomicfile.Write(name, func(w io.Writer) error { return encode(w, generation, written, lists) })
}

func group(entries []Entry) (map[string][][keySize]byte, error) {
	lists := map[string][][keySize]byte{}
	for _, e := range entries {
		var raw [keySize]byte
		if !decodeKey(&raw, e.Key) {
			return nil, fmt.Errorf("%q is no suppression key", e.Key)
		}
		if len(e.Tenant) > maxTenant {
			return nil, fmt.Errorf("tenant name of %d bytes is longer than %d", len(e.Tenant), maxTenant)
		}
		lists[e.Tenant] = append(lists[e.Tenant], raw)
	}
	if len(lists) > maxLists {
		return nil, fmt.Errorf("%d tenants are more than %d", len(lists), maxLists)
	}
	for tenant, keys := range lists {
		slices.SortFunc(keys, func(a, b [keySize]byte) int { return bytes.Compare(a[:], b[:]) })
		lists[tenant] = slices.Compact(keys)
	}
	return lists, nil
}

func encode(w io.Writer, generation uint64, written time.Time, lists map[string][][keySize]byte) error {
	tenants := make([]string, 0, len(lists))
	for tenant := range lists {
		tenants = append(tenants, tenant)
	}
	slices.SortFunc(tenants, strings.Compare)

	checksum := crc32.New(castagnoli)
	buffer := bufio.NewWriterSize(w, 1<<16)
	out := io.MultiWriter(buffer, checksum)
	head := append([]byte(nil), magic[:]...)
	head = binary.LittleEndian.AppendUint64(head, generation)
	head = binary.LittleEndian.AppendUint64(head, uint64(written.UnixMicro())) //nolint:gosec // two's complement
	head = binary.LittleEndian.AppendUint32(head, uint32(len(tenants)))        //nolint:gosec // bounded by maxLists
	for _, tenant := range tenants {
		head = binary.LittleEndian.AppendUint16(head, uint16(len(tenant))) //nolint:gosec // bounded by maxTenant
		head = append(head, tenant...)
		head = binary.LittleEndian.AppendUint64(head, uint64(len(lists[tenant])))
	}
	if _, err := out.Write(head); err != nil {
		return err
	}
	for _, tenant := range tenants {
		for i := range lists[tenant] {
			if _, err := out.Write(lists[tenant][i][:]); err != nil {
				return err
			}
		}
	}
	if err := binary.Write(buffer, binary.LittleEndian, checksum.Sum32()); err != nil {
		return err
	}
	return buffer.Flush()
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
	for _, l := range lists {
		if l.keys > uint64(len(rest)/keySize) {
			return nil, malformed("cut in the keys")
		}
		if _, twice := s.lists[l.tenant]; twice {
			return nil, malformed("a tenant comes twice")
		}
		n := int(l.keys) * keySize //nolint:gosec // bounded by len(rest)
		s.lists[l.tenant], rest = rest[:n:n], rest[n:]
		if !ascending(s.lists[l.tenant]) {
			return nil, malformed("keys out of order")
		}
		s.size += int(l.keys) //nolint:gosec // bounded by len(rest)
	}
	if len(rest) > 0 {
		return nil, malformed("something follows the keys")
	}
	return s, nil
}

func ascending(list []byte) bool {
	for i := keySize; i < len(list); i += keySize {
		if bytes.Compare(list[i-keySize:i], list[i:i+keySize]) >= 0 {
			return false
		}
	}
	return true
}
