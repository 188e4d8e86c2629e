package config

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"strconv"
)

// thisMachine returns what Lint can know of the machine it runs on, less DNS.
func thisMachine() Machine {
	meminfo, _ := os.ReadFile("/proc/meminfo") // where there is none the memory is not known
	m := Machine{Memory: memTotal(meminfo)}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return m
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			m.Addrs = append(m.Addrs, p.Addr())
		}
	}
	return m
}

// memTotal returns the machine's memory in bytes from the text of /proc/meminfo, 0 if it does not say.
func memTotal(meminfo []byte) int64 {
	for line := range bytes.Lines(meminfo) {
		fields := bytes.Fields(line)
		if len(fields) < 2 || string(fields[0]) != "MemTotal:" {
			continue
		}
		if kilobytes, err := strconv.ParseInt(string(fields[1]), 10, 64); err == nil {
			return kilobytes << 10
		}
	}
	return 0
}
