// Swagger UI over this system's own description; nothing is loaded from elsewhere.
window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  presets: [window.SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
});
