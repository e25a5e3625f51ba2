// Package sqlite keeps everything a studio must not forget in one embedded database file.
//
// There is one writer. A change is a request to its goroutine ([DB.Write]); whatever waits is committed together
// and is answered when the disk has it; a request that fails takes none of its neighbours along.
// Nobody opens a write transaction of their own. Readers use a pool of read-only connections and never wait for the writer.
//
// Each store of the studio is one file here and one or more numbered files in migrations.
package sqlite
