package smtpd

import (
	"bytes"
	"os"
	"strconv"
	"sync"
	"time"
)

// memoryInterval is how long one look at the machine's memory is good for.
const memoryInterval = time.Second

// memory says how much of the machine's memory is used, by anybody: max-memory-usage-percent.
type memory struct {
	read func() ([]byte, error) // /proc/meminfo

	mu     sync.Mutex
	looked time.Time
	used   int // percent; 0 where the system does not say
}

func readMeminfo() ([]byte, error) { return os.ReadFile("/proc/meminfo") }

// percent returns the part of the memory that is used.
func (m *memory) percent() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); now.Sub(m.looked) >= memoryInterval {
		m.looked = now
		text, _ := m.read() // without an answer nothing is said
		m.used = usedPercent(text)
	}
	return m.used
}

// usedPercent reads /proc/meminfo. What the system can get back at once counts as free.
func usedPercent(meminfo []byte) int {
	var total, available int
	for line := range bytes.Lines(meminfo) {
		fields := bytes.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch string(fields[0]) {
		case "MemTotal:":
			total, _ = strconv.Atoi(string(fields[1])) // 0 for nonsense
		case "MemAvailable:":
			available, _ = strconv.Atoi(string(fields[1])) // as above
		}
	}
	if total <= 0 || available <= 0 {
		return 0
	}
	return max(total-available, 0) * 100 / total
}
