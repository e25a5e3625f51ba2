// Command comfyume is the whole program; everything is in internal/cli.
package main

func main() {}
