package sqlite

import "github.com/ahelme/comfyume/internal/fault"

// networkDisk is the refusal of a database on a file system of another machine.
func networkDisk(dir, kind string) error {
	return fault.New(fault.Unavailable, "The folder %s is on a network file system (%s), where a database loses data.", dir, kind).
		WithRemedy("Put the data folder on a local disk; results may stay on the network.").WithCode("database_on_network")
}
