output "backends" {
  description = "The studio's back ends, to put into its settings under backends."
  value = [
    for name, d in verda_container.studio : {
      name         = replace(name, "comfyume-", "")
      driver       = "serverless"
      mode         = "agent"
      url          = d.endpoint_base_url
      key          = "env:VERDA_INFERENCE_KEY"
      max_parallel = var.deployments[name].max
      provider     = { name = "verda", deployment = name }
    }
  ]
}
